"""The one training loop: pre-training and both fine-tunings hand it their parts."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import Tensor

from epg.config.training import OptimizerConfig
from epg.model.precision import Precision
from epg.store.held import Guard, Nobody
from epg.training.keeper import Keeper
from epg.training.objective import Objective
from epg.training.step import Stepper
from epg.training.world import World

Series = list[dict[str, Any]]


@dataclass
class Watch:
    """Whom the loop tells what; every part may be left out."""

    progress: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None
    row: Callable[[dict[str, Any]], None] = lambda row: None
    measured: Callable[..., None] = lambda **values: None
    message: Callable[[str], None] = lambda text: None
    warning: Callable[[str], None] = lambda text: None
    guard: Guard = field(default_factory=Nobody)  # of the place where checkpoints go


@dataclass
class Stopper:
    """Turns SIGTERM and SIGINT into a wish that the loop grants at the next step boundary."""

    signal_number: int | None = None
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Stopper:
        """Install the handlers; outside the main thread there are none to install."""
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:
                break
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise SystemExit(128 + number)  # a second signal stops at once
        self.signal_number = number


def train(
    objective: Objective,
    config: OptimizerConfig,
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    checkpoints: Keeper,
    watch: Watch,
    world: World,
    precision: Precision | None = None,
) -> Series:
    """Train from the newest checkpoint, or from the start, to `config.steps`.

    Args:
        objective: losses and weights.
        config: steps, learning rate, clipping, intervals.
        batches: start step -> endless batches (images uint8 [N, H, W, C], labels [N]), this
            process's slice of each.
        checkpoints: where the state is saved by time and restored from.
        watch: whom to tell.
        world: the processes that share each batch.
        precision: whose scaler the losses go by; default: float32.

    Returns:
        One row per logged step: step, images_seen, loss, loss_<term>, learning_rate, grad_norm,
        and what the objective observes.

    Raises:
        UserError: loss or gradient is not finite; nothing non-finite is saved. Somebody else has
            taken the stage over; nothing more is saved.
        SystemExit: 143 or 130 after a signal, once the checkpoint is stored.
    """
    stepper = Stepper(objective, config, world, precision or Precision.full(world.device))
    start, series = _restored(checkpoints, stepper, watch, world)
    saver = _Saver(checkpoints, stepper, config, world, series)
    warned = False
    meter = _Meter(config, start)
    iterator = batches(start)
    values: dict[str, float] = {}
    with Stopper() as stopper, checkpoints:
        for step in range(start, config.steps):
            images, labels = meter.wait_for(iterator)
            logged = (step + 1) % config.log_every == 0 or step + 1 == config.steps
            row = stepper.step(images, labels, step)
            if row is None and logged:
                row = stepper.row(step)
            watch.guard.check()
            checkpoints.check()
            if row is not None:
                values = {"loss": row["loss"], **meter.measure(row)}
            if row is not None and logged:
                series.append(row)
                watch.row({**row, **values})
                watch.measured(row=row, **{k: v for k, v in values.items() if k != "loss"})
                if not warned and (text := objective.warning(row)):
                    watch.warning(text)
                    warned = True
            watch.progress(step + 1, config.steps, values)
            # The first process decides for all: a signal to stop on, or -1 to save, or 0.
            wish = world.decide(stopper.signal_number or -saver.is_due())
            if wish > 0:
                saver.save(step + 1)
                checkpoints.settle()
                watch.message(f"stopped at step {step + 1}, checkpoint saved")
                raise SystemExit(128 + wish)
            if wish < 0 and step + 1 < config.steps:
                saver.save(step + 1)
    return series


def _restored(
    checkpoints: Keeper, stepper: Stepper, watch: Watch, world: World
) -> tuple[int, Series]:
    """Fill all processes' tensors from the newest checkpoint; return its step and rows."""
    checkpoint = checkpoints.restore(stepper.state) if world.rank == 0 else None
    start = world.decide(checkpoint.step if checkpoint else 0)
    if start and world.size > 1:
        world.share(stepper.state().values())
    if checkpoint:
        watch.message(f"going on from the checkpoint at step {start}")
    return start, checkpoint.series if checkpoint else []


class _Saver:
    """Saves by time; never what is not finite."""

    def __init__(
        self,
        checkpoints: Keeper,
        stepper: Stepper,
        config: OptimizerConfig,
        world: World,
        series: Series,
    ) -> None:
        self._checkpoints = checkpoints
        self._stepper = stepper
        self._interval = config.checkpoint_every_seconds
        self._saves = world.rank == 0  # all processes hold the same
        self._series = series
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._interval

    def save(self, step: int) -> None:
        self._stepper.check()
        if self._saves:
            self._checkpoints.save(step, self._stepper.state(), self._series)
        self._saved_at = time.monotonic()


class _Meter:
    """Throughput over the last seconds, and time spent waiting for data."""

    def __init__(self, config: OptimizerConfig, start: int) -> None:
        self._batch = config.batch_size
        self._window: list[tuple[float, int]] = [(time.monotonic(), start)]
        self._waited = 0.0

    def wait_for(self, iterator: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        begun = time.monotonic()
        batch = next(iterator)
        self._waited += time.monotonic() - begun
        return batch

    def measure(self, row: dict[str, Any]) -> dict[str, float]:
        now = time.monotonic()
        self._window.append((now, row["step"]))
        while len(self._window) > 2 and now - self._window[0][0] > 10.0:
            self._window.pop(0)
        seconds = max(now - self._window[0][0], 1e-9)
        images = (row["step"] - self._window[0][1]) * self._batch
        return {"images_per_second": images / seconds, "data_wait_seconds": self._waited}

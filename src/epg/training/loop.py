"""The one training loop: pre-training and both fine-tunings hand it their parts."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from epg.config.recipe import OptimizerConfig
from epg.errors import UserError
from epg.training.checkpoints import Checkpoints, load_optimizer_tensors, optimizer_tensors
from epg.training.schedules import learning_rate_at

Series = list[dict[str, Any]]


class Objective(Protocol):
    """What a stage trains: its losses, its weights, and what follows each step."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Every tensor besides the optimizer's that a resumed training needs, by name."""
        ...

    def losses(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        """Terms of the loss at a step, already weighted; their sum is minimised.

        Args:
            images: uint8 [N, H, W, C] on the training device.
            labels: int64 [N].
            step: 0-based; all random numbers follow from it.
        """
        ...

    def after_step(self, step: int) -> None:
        """Update moving averages."""
        ...


@dataclass
class Watch:
    """Whom the loop tells what; every part may be left out."""

    progress: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None
    row: Callable[[dict[str, Any]], None] = lambda row: None
    measured: Callable[..., None] = lambda **values: None
    message: Callable[[str], None] = lambda text: None


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
    checkpoints: Checkpoints,
    scratch: Path,
    watch: Watch,
) -> Series:
    """Train from the newest checkpoint, or from the start, to `config.steps`.

    Args:
        objective: losses and weights.
        config: steps, learning rate, clipping, intervals.
        batches: start step -> endless batches (images uint8 [N, H, W, C], labels [N]).
        checkpoints: where the state is saved by time and restored from.
        scratch: local folder for a checkpoint on its way.
        watch: whom to tell.

    Returns:
        One row per logged step: step, images_seen, loss, loss_<term>, learning_rate, grad_norm.

    Raises:
        UserError: loss or gradient is not finite; nothing non-finite is saved.
        SystemExit: 143 or 130 after a signal, once the checkpoint is stored.
    """
    parameters = objective.parameters()
    names = list(parameters)
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=config.learning_rate,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
        fused=True,
    )
    start, series = _restore(objective, optimizer, names, checkpoints, watch)

    def save(step: int) -> None:
        tensors = {**objective.state(), **optimizer_tensors(optimizer, names)}
        checkpoints.save(step, tensors, series, scratch)
        saved_at.value = time.monotonic()
        watch.measured(checkpoint_time=time.time())

    saved_at = _Clock(time.monotonic())
    meter = _Meter(config, start)
    iterator = batches(start)
    with Stopper() as stopper:
        for step in range(start, config.steps):
            images, labels = meter.wait_for(iterator)
            row = _step(objective, optimizer, config, images, labels, step)
            values = meter.measure(row)
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                series.append(row)
                watch.row({**row, **values})
                watch.measured(row=row, **values)
            watch.progress(step + 1, config.steps, {"loss": row["loss"], **values})
            if stopper.signal_number is not None:
                save(step + 1)
                watch.message(f"stopped at step {step + 1}, checkpoint saved")
                raise SystemExit(128 + stopper.signal_number)
            due = time.monotonic() - saved_at.value >= config.checkpoint_every_seconds
            if due and step + 1 < config.steps:
                save(step + 1)
    return series


def _restore(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    names: list[str],
    checkpoints: Checkpoints,
    watch: Watch,
) -> tuple[int, Series]:
    checkpoint = checkpoints.restore()
    if checkpoint is None:
        return 0, []
    with torch.no_grad():
        for name, tensor in objective.state().items():
            tensor.copy_(checkpoint.tensors[name])
    load_optimizer_tensors(optimizer, names, checkpoint.tensors)
    watch.message(f"going on from the checkpoint at step {checkpoint.step}")
    return checkpoint.step, checkpoint.series


def _step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    images: Tensor,
    labels: Tensor,
    step: int,
) -> dict[str, Any]:
    """One optimizer step; returns its row of the series."""
    learning_rate = learning_rate_at(step, config)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    terms = objective.losses(images, labels, step)
    loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    clip = config.grad_clip if config.grad_clip and step >= config.warmup_steps else math.inf
    grad_norm = nn.utils.clip_grad_norm_(trained, clip)
    # One transfer for all numbers of the step, and a look at them before the weights change.
    numbers = torch.stack([loss.detach(), grad_norm, *[t.detach() for t in terms.values()]])
    total, norm, *values = numbers.tolist()
    if not (math.isfinite(total) and math.isfinite(norm)):
        listed = ", ".join(f"{name} {value:.4g}" for name, value in zip(terms, values, strict=True))
        raise UserError(
            f"step {step + 1}: the loss or its gradient is not finite (loss {total:.4g}, gradient "
            f"norm {norm:.4g}; {listed}) at learning rate {learning_rate:.3g}: lower "
            "learning_rate or lengthen warmup_steps; the last checkpoint is kept"
        )
    optimizer.step()
    objective.after_step(step)
    return {
        "step": step + 1,
        "images_seen": (step + 1) * config.batch_size,
        "loss": total,
        **{f"loss_{name}": value for name, value in zip(terms, values, strict=True)},
        "learning_rate": learning_rate,
        "grad_norm": norm,
    }


@dataclass
class _Clock:
    value: float


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

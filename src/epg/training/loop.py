"""The one training loop: pre-training and both fine-tunings hand it their parts."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from epg.config.training import OptimizerConfig
from epg.errors import UserError
from epg.store.held import Guard, Nobody
from epg.training.checkpoints import Checkpoints, optimizer_tensors
from epg.training.schedules import learning_rate_at
from epg.training.world import World

Series = list[dict[str, Any]]
_FACTOR = "learning_rate_factor"  # of an optimizer's group


class Losses(NamedTuple):
    """What a step computes: weighted terms, whose sum is minimised, and what is only looked at."""

    terms: dict[str, Tensor]
    observed: dict[str, Tensor]


class Objective(Protocol):
    """What a stage trains: its losses, its weights, and what follows each step."""

    @property
    def network(self) -> nn.Module:
        """What is trained: all of its parameters."""
        ...

    @property
    def undecayed(self) -> frozenset[str]:
        """Names of the network's parameters that weight decay spares."""
        ...

    @property
    def learning_rate_factors(self) -> Mapping[str, float]:
        """Factor on the learning rate of the network's parameters by name; 1 where none is."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Every tensor besides the optimizer's that a resumed training needs, by name."""
        ...

    def losses(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """Return the losses of a step over this process's slice of the batch.

        Args:
            images: uint8 [N, H, W, C] on the training device.
            labels: int64 [N].
            step: 0-based; all random numbers follow from it.
        """
        ...

    def after_step(self, step: int) -> None:
        """Update moving averages."""
        ...

    def warning(self, row: dict[str, Any]) -> str | None:
        """Return what is wrong with a training whose logged row this is, or None."""
        ...

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return what the stage is for: the tensors of each weight file, by its kind."""
        ...


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
    checkpoints: Checkpoints,
    watch: Watch,
    world: World,
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

    Returns:
        One row per logged step: step, images_seen, loss, loss_<term>, learning_rate, grad_norm,
        and what the objective observes.

    Raises:
        UserError: loss or gradient is not finite; nothing non-finite is saved. Somebody else has
            taken the stage over; nothing more is saved.
        SystemExit: 143 or 130 after a signal, once the checkpoint is stored.
    """
    optimizer = _optimizer(objective, config)

    def state() -> dict[str, Tensor]:
        return {**objective.state(), **optimizer_tensors(objective.network, optimizer)}

    checkpoint = checkpoints.restore(state)
    start, series = (checkpoint.step, checkpoint.series) if checkpoint else (0, [])
    if checkpoint:
        watch.message(f"going on from the checkpoint at step {start}")
    saved_at = time.monotonic()

    def save(step: int) -> None:
        nonlocal saved_at
        if world.rank == 0:  # all ranks hold the same
            checkpoints.save(step, state(), series)
        saved_at = time.monotonic()
        watch.measured(checkpoint_time=time.time())

    warned = False
    meter = _Meter(config, start)
    iterator = batches(start)
    with Stopper() as stopper:
        for step in range(start, config.steps):
            images, labels = meter.wait_for(iterator)
            row = _step(objective, optimizer, config, images, labels, step, world)
            values = meter.measure(row)
            watch.guard.check()
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                series.append(row)
                watch.row({**row, **values})
                watch.measured(row=row, **values)
                if not warned and (text := objective.warning(row)):
                    watch.warning(text)
                    warned = True
            watch.progress(step + 1, config.steps, {"loss": row["loss"], **values})
            if stopper.signal_number is not None:
                save(step + 1)
                watch.message(f"stopped at step {step + 1}, checkpoint saved")
                raise SystemExit(128 + stopper.signal_number)
            due = time.monotonic() - saved_at >= config.checkpoint_every_seconds
            if due and step + 1 < config.steps:
                save(step + 1)
    return series


def _optimizer(objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained of the network, one group for each weight decay and rate."""
    spared, factors = objective.undecayed, objective.learning_rate_factors
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.network.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if name in spared else config.weight_decay
            groups.setdefault((decay, factors.get(name, 1.0)), []).append(parameter)
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, _FACTOR: factor}
            for (decay, factor), parameters in sorted(
                groups.items(), key=lambda group: group[0], reverse=True
            )
        ],
        lr=config.learning_rate,
        betas=betas,
        fused=True,
    )


def _step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    images: Tensor,
    labels: Tensor,
    step: int,
    world: World,
) -> dict[str, Any]:
    """One optimizer step; returns its row of the series."""
    learning_rate = learning_rate_at(step, config)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[_FACTOR]
    terms, observed = objective.losses(images, labels, step)
    loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    clip = config.grad_clip if config.grad_clip and step >= config.warmup_steps else math.inf
    grad_norm = nn.utils.clip_grad_norm_(trained, clip)
    # One transfer for all numbers of the step, and a look at them before the weights change.
    named = {
        "loss": loss.detach(),
        **{f"loss_{name}": term.detach() for name, term in terms.items()},
        "grad_norm": grad_norm,
        **observed,
    }
    reduced = world.reduce(torch.stack([value.float() for value in named.values()]))
    values = dict(zip(named, reduced.tolist(), strict=True))
    total, norm = values["loss"], values["grad_norm"]
    if not (math.isfinite(total) and math.isfinite(norm)):
        listed = ", ".join(f"{name} {values[f'loss_{name}']:.4g}" for name in terms)
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
        **values,
        "learning_rate": learning_rate,
    }


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

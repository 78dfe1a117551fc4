"""One optimizer step, on all processes, and what it tells.

On a GPU nothing here waits for the device: a step whose numbers are not finite changes no weight
(the optimizer is told so on the device), is remembered there, and is noticed when a row is read.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from epg.config.training import OptimizerConfig, PretrainConfig
from epg.errors import UserError
from epg.model.precision import Precision
from epg.training.objective import Losses, Objective
from epg.training.optimizer import optimizer_tensors
from epg.training.schedules import learning_rate_at
from epg.training.world import World

_FACTOR = "learning_rate_factor"  # of an optimizer's group
_NEVER = 2**62  # a step that does not come
_LEAST_SCALE = 2.0**-10  # of a float16 loss; gradients that overflow there do so everywhere


class Stepper:
    """Trains an objective's network step by step."""

    def __init__(
        self, objective: Objective, config: OptimizerConfig, world: World, precision: Precision
    ) -> None:
        """Bind to an objective, and let the processes meet over its gradients."""
        self._objective = objective
        self._config = config
        self._world = world
        self._precision = precision
        self._optimizer = _adamw(objective, config)
        self._losses = world.parallel(_LossesOf(objective))
        self._trained = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._reads_always = world.device.type == "cpu"  # nothing to wait for
        # The first step whose numbers were not finite: of all processes together, and here.
        self._wrong = torch.full((2,), _NEVER, dtype=torch.int64, device=world.device)
        self._numbers: dict[str, Tensor] = {}  # of the last step: its row, before it is read
        self._learning_rate = 0.0

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that a resumed training needs, by name; not copies."""
        objective = self._objective
        return {
            **objective.state(),
            **optimizer_tensors(objective.network, self._optimizer),
            **self._precision.state(),
        }

    def step(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Any] | None:
        """Make a step; return its row where reading it costs nothing.

        Raises:
            UserError: on a CPU, loss or gradient is not finite; no weight was changed. There is
                not enough memory.
        """
        try:
            return self._step(images, labels, step)
        except torch.OutOfMemoryError as error:
            raise self._too_large(images) from error

    def _step(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Any] | None:
        self._learning_rate = learning_rate_at(step, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * group[_FACTOR]
        self._optimizer.zero_grad(set_to_none=True)
        losses, observed = self._backward(images, labels, step)
        self._precision.scaler.unscale_(self._optimizer)
        clip = self._config.grad_clip if step >= self._config.warmup_steps else None
        norm = nn.utils.clip_grad_norm_(self._trained, clip or math.inf)
        self._remember({**losses, "grad_norm": norm, **observed}, step)
        row = self.row(step) if self._reads_always else None
        self._update()
        self._objective.after_step(step)
        return row

    def row(self, step: int) -> dict[str, Any]:
        """Return the last step's row; waits for the device.

        Raises:
            UserError: loss or gradient of this or an earlier step was not finite.
        """
        read = torch.stack(list(self._numbers.values())).tolist()
        values = dict(zip(self._numbers, read, strict=True))
        self.check(values)
        return {
            "step": step + 1,
            "images_seen": (step + 1) * self._config.batch_size,
            **values,
            "learning_rate": self._learning_rate,
        }

    def check(self, values: dict[str, float] | None = None) -> None:
        """Stop where a step was not finite; waits for the device.

        Args:
            values: the last step's, to be told.

        Raises:
            UserError: naming the step and, where there are several, the processes.
        """
        everywhere, here = self._wrong.tolist()
        if everywhere != _NEVER:
            raise self._not_finite(everywhere, here, values or {})
        scaler = self._precision.scaler
        if scaler.is_enabled() and scaler.get_scale() < _LEAST_SCALE:
            raise UserError(
                "gradients overflow float16 at any scale of the loss: use precision=bfloat16 or "
                "precision=float32, or a lower learning_rate; the last checkpoint is kept"
            )

    def _backward(
        self, images: Tensor, labels: Tensor, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Fill the gradients, part by part of the slice; return losses and observed numbers."""
        parts = self._config.gradient_accumulation
        sums: list[dict[str, Tensor]] = [{}, {}]
        for part, (some, of) in enumerate(
            zip(images.chunk(parts), labels.chunk(parts), strict=True)
        ):
            with self._unsynced(part < parts - 1):
                terms, observed = self._losses(some, of, step, part, parts)
                loss = torch.stack(list(terms.values())).sum()
                self._precision.scaler.scale(loss if parts == 1 else loss / parts).backward()
            named = {"loss": loss, **{f"loss_{name}": term for name, term in terms.items()}}
            for summed, values in zip(sums, (named, observed), strict=True):
                for name, value in values.items():
                    value = value.detach().float() / parts
                    summed[name] = summed[name] + value if name in summed else value
        return sums[0], sums[1]

    def _unsynced(self, wanted: bool) -> contextlib.AbstractContextManager[object]:
        """Keep gradients to this process until the last part."""
        no_sync = getattr(self._losses, "no_sync", None)
        return no_sync() if wanted and no_sync else contextlib.nullcontext()

    @torch.no_grad()
    def _remember(self, numbers: dict[str, Tensor], step: int) -> None:
        """Keep the step's row on the device, and whether it is finite."""
        mean = self._world.reduce(torch.stack([value.float() for value in numbers.values()]))
        self._numbers = dict(zip(numbers, mean.unbind(), strict=True))
        # In float16 gradients overflow now and then; the scaler leaves such a step out.
        watched = ["loss"] if self._precision.scaler.is_enabled() else ["loss", "grad_norm"]
        everywhere = torch.stack([self._numbers[name] for name in watched]).isfinite().all()
        here = numbers["loss"].isfinite()
        seen = torch.stack([everywhere, here])
        self._wrong = torch.where(seen, self._wrong, self._wrong.clamp(max=step))

    def _update(self) -> None:
        """Change the weights, unless a step was not finite, which the device decides."""
        scaler = self._precision.scaler
        if scaler.is_enabled():
            scaler.step(self._optimizer)
            scaler.update()
            return
        if not self._reads_always:  # else `row` has raised
            optimizer: Any = self._optimizer
            optimizer.grad_scale = None
            optimizer.found_inf = (self._wrong[0] != _NEVER).float()
        self._optimizer.step()

    def _too_large(self, images: Tensor) -> UserError:
        """Say what did not fit, and what would."""
        config, size = self._config, self._world.size
        held = ""
        if images.is_cuda:
            peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
            held = f" ({peak / 2**30:.1f} GiB at its peak, of {total / 2**30:.1f})"
        ways = [f"batch_size={config.batch_size // 2}", "more processes"]
        if not isinstance(config, PretrainConfig):
            ways.insert(0, f"gradient_accumulation={2 * config.gradient_accumulation}")
        if not config.activation_checkpointing:
            ways.insert(0, "activation_checkpointing=true")
        return UserError(
            f"the memory of {images.device} is too small for {len(images)} images of "
            f"{images.shape[1]}x{images.shape[2]} in one process of {size}{held}, of which each "
            f"step takes {config.batch_size}: set one of {', '.join(ways)}; the last checkpoint is "
            "kept"
        )

    def _not_finite(self, step: int, here: int, values: dict[str, float]) -> UserError:
        firsts = self._world.gather(torch.tensor([here], device=self._world.device)).tolist()
        ranks = [str(rank) for rank, first in enumerate(firsts) if first == step]
        of = f" of rank {', '.join(ranks)}" if self._world.size > 1 and ranks else ""
        batch = self._config.batch_size
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return UserError(
            f"step {step + 1}: the loss{of} or its gradient is not finite ({shown or 'seen late'}; "
            f"images {step * batch:,} to {(step + 1) * batch - 1:,} of the order) at learning rate "
            f"{learning_rate_at(step, self._config):.3g}: lower learning_rate or lengthen "
            "warmup_steps; the last checkpoint is kept"
        )


class _LossesOf(nn.Module):
    """An objective's losses as a module, so that its gradients can be averaged over processes."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.network = objective.network  # whose parameters these are
        self._losses = objective.losses

    def forward(self, images: Tensor, labels: Tensor, step: int, part: int, parts: int) -> Losses:
        return self._losses(images, labels, step, part, parts)


def _adamw(objective: Objective, config: OptimizerConfig) -> torch.optim.Optimizer:
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

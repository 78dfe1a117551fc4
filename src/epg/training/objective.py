"""What can be trained: its losses, its weights, and what follows each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


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

    def losses(
        self, images: Tensor, labels: Tensor, step: int, part: int = 0, parts: int = 1
    ) -> Losses:
        """Return the losses of a step over a part of this process's slice of the batch.

        Args:
            images: uint8 [N, H, W, C] on the training device.
            labels: int64 [N].
            step: 0-based; all random numbers follow from it.
            part: which of the slice's equal `parts` these images are.
            parts: how many there are.
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

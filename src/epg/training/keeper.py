"""Who keeps the state of a training, as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor

#: Gives the tensors that a checkpoint is copied into, by name; called once there is a whole one.
Places = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """Where training goes on; the tensors are in their places already."""

    step: int  # steps done
    series: list[dict[str, Any]]  # one row per logged step so far


class Keeper(Protocol):
    """Keeps what a training goes on from; at the end of its context nothing is on its way."""

    def restore(self, places: Places) -> Checkpoint | None:
        """Copy the newest whole checkpoint into `places()`; None where there is none."""
        ...

    def save(self, step: int, tensors: dict[str, Tensor], series: list[dict[str, Any]]) -> None:
        """Take a checkpoint; the tensors may change from then on. Raises `UserError`."""
        ...

    def check(self) -> None:
        """Raise `UserError` where nothing is kept any more; costs nothing."""
        return

    def settle(self) -> None:
        """Return when all that was taken is kept. Raises `UserError`."""
        return

    def __enter__(self) -> Self:
        """Nothing is on its way yet."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """End; what fails meanwhile is told, not raised."""
        return

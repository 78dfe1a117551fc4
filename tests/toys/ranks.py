"""Several ranks in one process: a thread for each, with collectives that meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from epg.training.world import World
from tests.toys.command import PATIENCE

T = TypeVar("T")


def worlds(size: int) -> list[World]:
    """One `World` per rank; their collectives work while all ranks run `together`."""
    slots: list[Tensor] = [torch.empty(0)] * size
    barrier = threading.Barrier(size, timeout=PATIENCE)

    def collective(rank: int, combine: Callable[[list[Tensor]], Tensor]) -> Callable:
        def call(tensor: Tensor) -> Tensor:
            slots[rank] = tensor.detach()
            barrier.wait()
            combined = combine(list(slots))
            barrier.wait()
            return combined

        return call

    def mean(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).mean(0)

    def total(rank: int) -> Callable[[Tensor], Tensor]:
        summed = collective(rank, lambda parts: torch.stack(parts).sum(0))

        class Total(torch.autograd.Function):
            @staticmethod
            def forward(context: Any, tensor: Tensor) -> Tensor:
                return summed(tensor)

            @staticmethod
            def backward(context: Any, *gradients: Tensor) -> Tensor:
                return summed(gradients[0])

        apply: Callable[[Tensor], Tensor] = Total.apply
        return apply

    def decide(rank: int) -> Callable[[int], int]:
        first = collective(rank, lambda parts: parts[0])
        return lambda value: int(first(torch.tensor(value)))

    def share(rank: int) -> Callable[[Iterable[Tensor]], None]:
        first = collective(rank, lambda parts: parts[0].clone())

        def copy(tensors: Iterable[Tensor]) -> None:
            for tensor in tensors:
                tensor.detach().copy_(first(tensor))

        return copy

    return [
        World(
            r,
            size,
            gather=collective(r, torch.cat),
            reduce=collective(r, mean),
            total=total(r),
            decide=decide(r),
            share=share(r),
        )
        for r in range(size)
    ]


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Run one piece of work per rank at the same time and return their results in rank order."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]

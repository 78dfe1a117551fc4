"""A network's pass as a CUDA graph: one launch, where hundreds of small ones would take longer.

A graph is recorded once for each shape of the inputs and replayed from then on. What it computes is
what the pass itself computes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PLAIN_PASSES = 2  # of each shape, in which programs are compiled and libraries choose kernels
_MOST_SHAPES = 4  # each keeps its activations


class Replayed:
    """A pass without gradient, random numbers or choices by value, replayed on one GPU.

    A shape that comes a third time is recorded; one that is rarer, such as the last part of a
    batch, is computed plainly.
    """

    def __init__(self, call: Callable[..., Tensor]) -> None:
        """Wrap a function of tensors, all of them on the GPU."""
        self._call = call
        self._seen: dict[tuple[Any, ...], int] = {}
        self._graphs: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self._pool: Any = None  # memory that all graphs share: they never run at the same time

    @property
    def recorded(self) -> int:
        """How many shapes have a graph."""
        return len(self._graphs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the function returns, in memory of its own."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._graphs:
            times = self._seen[key] = self._seen.get(key, 0) + 1
            if times <= _PLAIN_PASSES or len(self._graphs) == _MOST_SHAPES:
                return self._call(*inputs)
            self._graphs[key] = self._record(inputs)
        graph, held, output = self._graphs[key]
        for place, tensor in zip(held, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return output.clone()

    def _record(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        """Record the pass; nothing is computed yet."""
        held = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: weights go to a store while samples are made.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = self._call(*held)
        self._pool = self._pool or graph.pool()
        return graph, held, output

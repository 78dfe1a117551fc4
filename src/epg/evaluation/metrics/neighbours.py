"""Nearest neighbours among many rows, block by block: memory stays at `block`² numbers.

Shapes: `N M` rows, `D` feature width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BLOCK_ROWS = 2048


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M] of x [N, D] and y [M, D], never negative."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_min_(0)


def nearest(rows: Tensor, others: Iterable[Tensor], k: int, block: int = BLOCK_ROWS) -> Tensor:
    """Squared distances of every row [N, D] to the k nearest of the others: [N, k], ascending.

    Args:
        rows: from which distances are taken.
        others: parts [M, D] of the set among which is looked; the whole may not fit memory.
        k: how many; where there are fewer, the rest is infinite.
        block: rows that are compared at a time, of either set.
    """
    found = rows.new_full((len(rows), k), float("inf"))
    for part in others:
        for columns in part.split(block):
            for here, known in zip(rows.split(block), found.split(block), strict=True):
                _take_in(known, squared_distances(here, columns))
    return found


def nearest_of_set(rows: Tensor, k: int, block: int = BLOCK_ROWS) -> Tensor:
    """Return `nearest` of a set [N, D] among itself, [N, k]; each row's first is the row.

    Every two blocks are compared once, for both of them: half of the work.
    """
    parts = rows.split(block)
    found = rows.new_full((len(rows), k), float("inf"))
    known = found.split(block)
    for i, here in enumerate(parts):
        for j, others in enumerate(parts[i:], i):
            distances = squared_distances(here, others)
            _take_in(known[i], distances)
            if i != j:
                _take_in(known[j], distances.T.contiguous())
    return found


def _take_in(known: Tensor, distances: Tensor) -> None:
    """Keep the least of those known [N, k] and of further ones [N, M]."""
    k, most = known.shape[1], min(known.shape[1], distances.shape[1])
    close = distances.topk(most, dim=1, largest=False).values
    known.copy_(torch.cat([known, close], 1).topk(k, dim=1, largest=False).values)

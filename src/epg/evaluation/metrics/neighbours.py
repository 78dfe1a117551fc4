"""Nearest neighbours among many rows, block by block: memory stays at `block`² numbers.

Shapes: `N M` rows, `D` feature width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BLOCK_ROWS = 4096


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
                most = min(k, len(columns))
                close = squared_distances(here, columns).topk(most, dim=1, largest=False).values
                known.copy_(torch.cat([known, close], 1).topk(k, dim=1, largest=False).values)
    return found

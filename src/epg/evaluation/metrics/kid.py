"""Kernel distance of two sets of features: unbiased, so that few images do not raise it.

Shapes: `N` feature rows, `D` feature width, `n` rows of a subset.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000
_SEED = 2020  # the subsets that other tools draw, so that figures agree to rounding


def squared_mmd(samples: Tensor, reference: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets [n, D], float64.

    The kernel is (x·y / D + 1)³. Around 0 for two sets of one distribution, also below.

    Source: docs/method.md, 8.5; Bińkowski et al. 2018, eq. 4.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.addmm(
            torch.ones((), dtype=x.dtype, device=x.device), x, y.T, alpha=1 / x.shape[1]
        ).pow_(3)

    def off_diagonal(x: Tensor) -> Tensor:
        own = kernel(x, x)
        return (own.sum() - own.diagonal().sum()) / (len(x) * (len(x) - 1))

    within = off_diagonal(samples) + off_diagonal(reference)
    return float(within - 2 * kernel(samples, reference).mean())


def kernel_distance(
    samples: NDArray[Any],
    reference: NDArray[Any],
    *,
    device: torch.device | str = "cpu",
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> float:
    """Mean of `squared_mmd` over random subsets of both sets [N, D]: KID in Inception's features.

    Subsets are of at most as many rows as the smaller set has, and at least two are needed.
    """
    size = min(subset_size, len(samples), len(reference))
    if size < 2:
        raise ValueError(f"sets of {len(samples)} and {len(reference)} rows: two are needed")
    rng = np.random.RandomState(_SEED)
    found = []
    for _ in range(subsets):
        pair = [
            torch.from_numpy(rows[rng.choice(len(rows), size, replace=False)]).to(device).double()
            for rows in (samples, reference)
        ]
        found.append(squared_mmd(*pair))
    return float(np.mean(found))

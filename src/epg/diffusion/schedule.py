"""Noise levels. Everything here is unshifted; `sigma_shift` is applied where images are met."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from epg.diffusion.plan import sigma_levels


def sigma_grid(num_scales: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Return `num_scales` levels from `sigma_max` down to `sigma_min`, float64.

    Source: docs/method.md, 1.2; Karras et al. 2022, eq. 5.
    """
    return torch.tensor(sigma_levels(num_scales, sigma_min, sigma_max, rho), dtype=torch.float64)


def num_scales_at(step: int, total_steps: int, start: int, end: int) -> int:
    """Return N(k), the number of levels at a step of pre-training; it doubles in stages.

    Source: docs/method.md, 2.3.
    """
    period = math.ceil(total_steps / math.log2(math.ceil(end / start) + 1))
    return min(start * 2 ** math.ceil(step / period), end) + 1


def log_normal_sigmas(normal: Tensor, mean: float, std: float) -> Tensor:
    """Return levels with ln(sigma) ~ N(mean, std^2) for standard normal numbers, float64 [N].

    Source: docs/method.md, 4.2.
    """
    return torch.exp(mean + std * normal)


def nearest_levels(sigmas: Tensor, grid: Tensor) -> Tensor:
    """Return for each sigma [N] the index of the nearest level of a descending grid [M].

    Source: docs/method.md, 4.2.
    """
    ascending = grid.flip(0)
    right = torch.searchsorted(ascending, sigmas).clamp(1, len(grid) - 1)
    left = right - 1
    closer_left = sigmas - ascending[left] <= ascending[right] - sigmas
    return len(grid) - 1 - torch.where(closer_left, left, right)

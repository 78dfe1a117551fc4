"""Scalings of the network's input and output. S is a shifted noise level [N], float32 or 64."""

from __future__ import annotations

import torch
from torch import Tensor


def c_in(sigma: Tensor, sigma_data: float) -> Tensor:
    """Scale that brings a noisy image to unit variance.

    Source: docs/method.md, 1.4; Karras et al. 2022, table 1.
    """
    return 1.0 / (sigma.square() + sigma_data**2).sqrt()


def c_noise(sigma: Tensor) -> Tensor:
    """Return 250 ln S, the argument of the time token.

    Source: docs/method.md, 1.4.
    """
    return 250.0 * torch.log(sigma)


def c_skip(sigma: Tensor, sigma_floor: float, sigma_data: float) -> Tensor:
    """Share of the input in a consistency model's output; 1 at the floor S0.

    Source: docs/method.md, 5.1.
    """
    return sigma_data**2 / ((sigma - sigma_floor).square() + sigma_data**2)


def c_out(sigma: Tensor, sigma_floor: float, sigma_data: float) -> Tensor:
    """Share of the network in a consistency model's output; 0 at the floor S0.

    Source: docs/method.md, 5.1.
    """
    return (sigma - sigma_floor) * sigma_data / (sigma.square() + sigma_data**2).sqrt()


def per_image(values: Tensor) -> Tensor:
    """Reshape [N] to float32 [N, 1, 1, 1], so that it scales images."""
    return values.to(torch.float32)[:, None, None, None]

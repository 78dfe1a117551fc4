"""Stage 2 as a diffusion model: weighted prediction of the clean image.

Shape letters: N batch, C channels, H W pixels, M levels of the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epg.diffusion.denoisers import add_noise


def level_weights(grid: Tensor) -> Tensor:
    """Return w_i = 1 / (sigma_i - sigma_{i+1}) for a descending unshifted grid [M], float64.

    The last level has no successor and takes the weight before it.

    Source: docs/method.md, 4.2.
    """
    weights = 1.0 / (grid[:-1] - grid[1:])
    return torch.cat([weights, weights[-1:]])


def denoising_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    noise: Tensor,
    sigma: Tensor,
    weight: Tensor,
) -> Tensor:
    """Return the mean over batch and pixels of w (D(x_S; S) - x_0)^2, a scalar.

    Args:
        denoise: D(x [N, C, H, W], shifted sigma [N]) -> [N, C, H, W].
        images: clean images x_0 [N, C, H, W].
        noise: standard normal [N, C, H, W].
        sigma: shifted levels [N], float64.
        weight: [N], float64.

    Source: docs/method.md, 4.1.
    """
    denoised = denoise(add_noise(images, noise, sigma), sigma)
    squared = (denoised.float() - images).square().flatten(1).mean(1)
    return (weight.to(squared.dtype) * squared).mean()

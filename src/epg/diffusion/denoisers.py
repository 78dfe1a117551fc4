"""From the network F to the denoised image D(x; S), for both objectives.

Shape letters: N batch, C channels, H W pixels. Sigmas are shifted, float64 [N].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epg.diffusion.preconditioning import c_in, c_noise, c_out, c_skip, per_image

#: F(c_in * x, c_noise, labels) -> [N, C, H, W]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


def denoise_directly(
    network: Network, x: Tensor, sigma: Tensor, labels: Tensor, sigma_data: float
) -> Tensor:
    """D = F: the network predicts the clean image.

    Source: docs/method.md, 4.1.
    """
    scaled = per_image(c_in(sigma, sigma_data)) * x
    return network(scaled, c_noise(sigma), labels)


def denoise_consistently(
    network: Network,
    x: Tensor,
    sigma: Tensor,
    labels: Tensor,
    sigma_data: float,
    sigma_floor: float,
) -> Tensor:
    """D = c_skip x + c_out F, which is x itself at `sigma_floor`.

    Source: docs/method.md, 5.1.
    """
    scaled = per_image(c_in(sigma, sigma_data)) * x
    output = network(scaled, c_noise(sigma), labels)
    skip = per_image(c_skip(sigma, sigma_floor, sigma_data))
    out = per_image(c_out(sigma, sigma_floor, sigma_data))
    return skip * x + out * output


def add_noise(images: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return x_S = x_0 + S * noise.

    Source: docs/method.md, 1.3.
    """
    return torch.addcmul(images, per_image(sigma), noise)

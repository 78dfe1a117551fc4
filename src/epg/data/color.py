"""Colour operations on batches: float images [..., C, H, W] in 0…1, one parameter per image.

C is 1 or 3; a parameter has the leading shape of the batch. Each agrees with torchvision's
function of the same name; saturation, hue and grey leave one-channel images as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


def _per_image(parameter: Tensor) -> Tensor:
    return parameter[..., None, None, None]


def grey(images: Tensor) -> Tensor:
    """Return the luma [..., 1, H, W]."""
    if images.shape[-3] == 1:
        return images
    red, green, blue = images.split(1, dim=-3)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return factor·images + (1 − factor)·other, clamped; factor 1 changes nothing."""
    factor = _per_image(factor)
    return (images * factor + other * (1 - factor)).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor`; 1 changes nothing."""
    return (images * _per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move every pixel away from the image's mean luma by `factor`."""
    return _blend(images, grey(images).mean(dim=(-3, -2, -1), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Move every pixel away from its own luma by `factor`."""
    return images if images.shape[-3] == 1 else _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (−0.5 … 0.5 of the full circle); 0 changes nothing, exactly.

    In HSV a channel is `value − chroma · clamp(min(k, 4 − k), 0, 1)` with
    `k = (n + 6·hue) mod 6` and n = 5, 3, 1 for red, green, blue.

    Source: docs/method.md, 2.5; Smith 1978.
    """
    if images.shape[-3] == 1:
        return images
    red, green, blue = images.unbind(dim=-3)
    value = images.amax(dim=-3)
    chroma = value - images.amin(dim=-3)
    safe = torch.where(chroma == 0, 1.0, chroma)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turned = sextant + 6 * shift[..., None, None]
    n = torch.arange(5.0, 0.0, -2.0, device=images.device)[:, None, None]  # made on the device
    k = torch.remainder(n + turned.unsqueeze(-3), 6)
    fall = torch.minimum(k, 4 - k).clamp_(0, 1)
    moved = value.unsqueeze(-3) - chroma.unsqueeze(-3) * fall
    return torch.where(_per_image(shift) == 0, images, moved)


def random_grey(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace the `chosen` images (bool) by their luma, in all channels."""
    if images.shape[-3] == 1:
        return images
    return torch.where(_per_image(chosen), grey(images), images)


def solarize(images: Tensor, chosen: Tensor, threshold: float = 128 / 255) -> Tensor:
    """Invert the pixels at or above `threshold` of the `chosen` images (bool)."""
    return torch.where(_per_image(chosen) & (images >= threshold), 1 - images, images)

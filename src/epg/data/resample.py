"""Resampling of whole batches, each image by its own rule, as products of two small matrices.

A separable filter is `rows @ image @ columnsᵀ`. With one matrix per image a crop, a resize, a flip
or a blur of any strength is a batched matrix product: no loop over images, the same code on CPU
and GPU. Shapes: N images, C channels, H W pixels in, h w pixels out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def crop_matrix(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Return matrices [N, out, in] that cut [start, start + length) and resize it, bilinear.

    Antialiased where it shrinks, and blind to what lies outside the cut, as torchvision's
    `resized_crop(antialias=True)`; `start` and `length` [N] are in pixels, whole or not. A
    negative length reads the cut backwards from `start`: a flip.
    """
    start = torch.where(length < 0, start + length, start)
    flip = length < 0
    length = length.abs()
    out = torch.arange(size_out, device=start.device, dtype=torch.float32) + 0.5
    scale = (length / size_out)[:, None]
    centre = torch.where(flip[:, None], size_out - out, out) * scale + start[:, None]
    pixel = torch.arange(size_in, device=start.device, dtype=torch.float32) + 0.5
    distance = (pixel - centre[..., None]).abs() / scale.clamp(min=1)[..., None]
    inside = (pixel > start[:, None]) & (pixel < (start + length)[:, None])
    weights = (1 - distance).clamp_(min=0) * inside[:, None]
    return weights / weights.sum(-1, keepdim=True)


def blur_matrix(sigma: Tensor, radius: int, size: int) -> Tensor:
    """Return matrices [N, size, size] of a Gaussian blur with reflected borders.

    `sigma` [N] is in pixels, 0 for no blur at all; the kernel has 2·radius + 1 taps and the border
    pixel is not repeated, as torchvision's `gaussian_blur`; radius < size.
    """
    safe = torch.where(sigma > 0, sigma, 1.0)[:, None]
    tap = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (tap / safe) ** 2)
    only_centre = (tap == 0).to(kernel.dtype).expand_as(kernel)
    kernel = torch.where(sigma[:, None] > 0, kernel / kernel.sum(-1, keepdim=True), only_centre)
    # Row i holds tap t at column i + t, folded back into the image where it sticks out.
    out = torch.arange(size, device=sigma.device)
    column = (out[:, None] + tap).abs()
    column = torch.where(column >= size, 2 * (size - 1) - column, column)
    matrix = kernel.new_zeros(len(sigma), size, size)
    index = column.expand(len(sigma), -1, -1)
    return matrix.scatter_add_(2, index, kernel[:, None].expand(-1, size, -1))


def blur_radius(sigma_max: float, size: int) -> int:
    """Return the radius that holds ±3 sigma (13 taps for sigma 2), within what borders allow."""
    return min(max(math.ceil(3 * sigma_max), 1), size - 1)


def apply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ images @ columnsᵀ`: [N, h, H], [N, C, H, W], [N, w, W] to [N, C, h, w]."""
    N, C, H, W = images.shape
    h, w = rows.shape[1], columns.shape[1]
    wide = torch.bmm(images.reshape(N, C * H, W), columns.transpose(1, 2))
    if C == 1:
        return torch.bmm(rows, wide).reshape(N, 1, h, w)
    return torch.matmul(rows[:, None], wide.reshape(N, C, H, w))

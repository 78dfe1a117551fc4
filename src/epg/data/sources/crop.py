"""The crop of ADM in two modes: exact to the bit, and fast.

Both decode to the same pixels, halve by the same box filter and cut the same square. `exact`
resizes with Pillow, as the published statistics were made; `fast` with PyTorch's bicubic filter on
uint8, in a quarter of the time. Fewer than 1 in 100 bytes differ, by at most 3 of 255
(`tests/parity/test_crop.py`).

Pillow's `resize(box=...)`, which would spare what is cut away, is no part of the exact mode: it
places its filter by rounded fractions, and differs by up to 8 of 255.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from epg.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

FAST_NEEDS = (
    "data.crop=fast needs PyTorch, which is not installed here: use "
    "--set data.crop=exact, or on a cluster give the steps without PyTorch the image that has it "
    "(`epg submit --param tools_image=...`)"
)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return a `size`×`size` image: halve by BOX, BICUBIC to the shorter side, cut the centre.

    This is the crop of ADM, on which published figures rest.

    Source: docs/method.md, 1.5; Dhariwal and Nichol 2021.
    """
    image = _halved(image, size)
    width, height, left, top = _geometry(*image.size, size)
    if (width, height) == image.size:
        return image.crop((left, top, left + size, top + size))
    # Pillow resizes across, then down: what is cut away of the width need not be resized down.
    across = image.resize((width, image.height), Image.Resampling.BICUBIC)
    kept = across.crop((left, 0, left + size, image.height))
    down = kept.resize((size, height), Image.Resampling.BICUBIC)
    return down.crop((0, top, size, top + size))


def fast_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return nearly what `centre_crop` returns, of uint8 [H, W, C] as uint8 [size, size, C].

    Raises:
        UserError: PyTorch is not installed.
    """
    torch = require_torch()
    if min(pixels.shape[:2]) >= 2 * size:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        halved = np.array(_halved(image, size), np.uint8)
        pixels = halved[..., None] if halved.ndim == 2 else halved
    height, width = pixels.shape[:2]
    wide, high, left, top = _geometry(width, height, size)
    if (wide, high) != (width, height):
        # A view in the layout of the array, channels last, in which the result comes back: only
        # where the batch has its axis first does PyTorch see that the channels are last.
        source = pixels if pixels.flags.writeable else pixels.copy()  # else PyTorch warns
        nchw = torch.from_numpy(source)[None].permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            nchw, (high, wide), mode="bicubic", antialias=True
        )
        pixels = resized[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def require_torch() -> ModuleType:
    """Return PyTorch. Raises `UserError` where it is not installed."""
    try:
        import torch
    except ImportError:
        raise UserError(FAST_NEEDS) from None
    return torch


def _halved(image: Image.Image, size: int) -> Image.Image:
    """Halve an image by BOX while its shorter side is at least twice `size`."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def _geometry(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Return the resized width and height, and the crop's left and top."""
    scale = size / min(width, height)
    width, height = round(width * scale), round(height * scale)
    return width, height, (width - size) // 2, (height - size) // 2

"""JPEG to pixels by libjpeg-turbo alone (`simplejpeg`): Pillow's bits in less time.

Pillow reads a file in blocks and copies every row; otherwise it is the same library with the same
settings (`tests/parity/test_jpeg.py`). What is not plain and sound is left to Pillow, whose word
on damaged files counts.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

#: By channels: how pixels are asked for, and what a file may hold.
_KINDS = {1: ("GRAY", ("Gray",)), 3: ("RGB", ("YCbCr", "RGB"))}


def decode_jpeg(
    data: bytes | memoryview,
    shape: tuple[int, int, int],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8] | None:
    """Return the pixels of a plain JPEG, uint8 of `shape`; None for whatever Pillow must judge.

    No pixel is decoded unless the header says what is expected. It is safe, and runs at the same
    time, in threads.

    Args:
        data: the file.
        shape: [H, W, C]; C is 1 for grey, 3 for colours.
        out: uint8 of `shape`, contiguous, to decode into; what it holds after None is undefined.
    """
    wanted, allowed = _KINDS[shape[2]]
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != shape[:2] or colours not in allowed:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, wanted, buffer=out)
    except ValueError:  # damaged, or odd in a way that Pillow may forgive
        return None
    return pixels

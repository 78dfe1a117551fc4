"""JPEG to pixels by torchvision, where it is there: Pillow's bits in less time."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: From a file's bytes, grey or RGB, to uint8 [H, W, C]; raises `RuntimeError` for a damaged one.
Decoder = Callable[[bytes], NDArray[np.uint8]]


def torchvision_decoder() -> Decoder | None:
    """Return a decoder that equals Pillow's to the bit (`tests/parity/test_crop.py`).

    None where PyTorch is not loaded, which this is not worth, or where torchvision has no such
    function any more: its makers have announced its removal.
    """
    return _decoder() if "torch" in sys.modules else None


@functools.cache
def _decoder() -> Decoder | None:
    try:
        import torch
        from torchvision.io import decode_jpeg
    except Exception:
        return None
    notice = "The image decoding and encoding capabilities of TorchVision"
    warnings.filterwarnings("ignore", notice, DeprecationWarning)

    def decode(data: bytes) -> NDArray[np.uint8]:
        source = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: NDArray[np.uint8] = decode_jpeg(source).permute(1, 2, 0).numpy()
        return pixels

    return decode

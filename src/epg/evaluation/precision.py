"""Full float32 for what is measured.

On GPUs since Ampere, cuDNN's convolutions round float32 to TF32 (10 bits of mantissa) by default,
and matrix products do where a training asked for it: published figures were not taken so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 as float32 inside, and put the settings back; also a decorator.

    Of torch's two sets of settings this is the newer one, `fp32_precision`: the older warns.
    """
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value

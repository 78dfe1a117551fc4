"""Photographs like ImageNet's: random crops of the two that scikit-learn bundles."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    """Return files of 500×375 pixels, quality 97, every third with full chroma: about 100 KB."""
    rng = np.random.default_rng(seed)
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    found = []
    for number in range(count):
        width = int(rng.integers(320, 561))
        height = width * 3 // 4
        left, top = int(rng.integers(0, 641 - width)), int(rng.integers(0, 428 - height))
        cut = photographs[number % 2].crop((left, top, left + width, top + height))
        stream = io.BytesIO()
        resized = cut.resize((500, 375), Image.Resampling.BICUBIC)
        resized.save(stream, "JPEG", quality=97, subsampling=0 if number % 3 == 0 else 2)
        found.append(stream.getvalue())
    return found

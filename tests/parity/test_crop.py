"""ADM's crop: the exact mode against its own steps, the fast one against the exact one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from epg.data.sources.crop import centre_crop, fast_crop

#: Width and height: wide, tall, just too small for halving, halved once and twice, odd, square.
SIZES = [(500, 375), (375, 500), (427, 255), (513, 129), (640, 400), (333, 259), (256, 256)]


def photograph(size: tuple[int, int], number: int, grey: bool = False) -> Image.Image:
    picture = Image.fromarray(load_sample_images().images[number % 2])
    cut = picture.crop((number * 7, number * 5, 640 - number, 427 - number))
    return cut.resize(size, Image.Resampling.LANCZOS).convert("L" if grey else "RGB")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [64, 128, 256])
def test_the_exact_crop_is_adms(size, wanted):
    image = photograph(size, 1)
    expected = image
    while min(expected.size) >= 2 * wanted:  # the protocol, step by step
        half = (expected.size[0] // 2, expected.size[1] // 2)
        expected = expected.resize(half, resample=Image.Resampling.BOX)
    scale = wanted / min(expected.size)
    whole = (round(expected.size[0] * scale), round(expected.size[1] * scale))
    pixels = np.array(expected.resize(whole, resample=Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - wanted) // 2, (pixels.shape[1] - wanted) // 2
    found = np.asarray(centre_crop(image, wanted))
    assert np.array_equal(found, pixels[top : top + wanted, left : left + wanted])


@pytest.mark.parametrize("grey", [False, True])
def test_the_fast_crop_hardly_differs(grey):
    differences = []
    for number, size in enumerate(SIZES):
        for wanted in (64, 128, 256):
            image = photograph(size, number, grey)
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
            fast = fast_crop(pixels, wanted)
            exact = np.asarray(centre_crop(image, wanted)).reshape(wanted, wanted, -1)
            assert fast.shape == exact.shape
            differences.append(np.abs(fast.astype(int) - exact).ravel())
    found = np.concatenate(differences)
    assert found.max() <= 3
    assert (found > 0).mean() < 0.01

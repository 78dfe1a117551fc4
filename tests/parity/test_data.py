"""Our batched image operations against torchvision's, image by image, with given parameters."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from epg.data import color, resample

COUNT = 12


@pytest.fixture(params=[1, 3], ids=["grey", "rgb"])
def images(request) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(COUNT, request.param, 32, 32, generator=generator)
    noise[0], noise[1], noise[2, :, :16] = 0, 1, 0.5  # no chroma, no range
    return noise


def parameters(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, COUNT)


def one_by_one(images: Tensor, function) -> Tensor:
    return torch.stack([function(i, image) for i, image in enumerate(images)])


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("adjust_brightness", 0.0, 2.0),
        ("adjust_contrast", 0.0, 2.0),
        ("adjust_saturation", 0.0, 2.0),
        ("adjust_hue", -0.5, 0.5),
    ],
)
def test_colour_operations(images, name, low, high):
    factors = parameters(low, high)
    ours = getattr(color, name)(images, factors)
    theirs = one_by_one(images, lambda i, x: getattr(reference, name)(x, float(factors[i])))
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)


def test_colour_operations_with_more_leading_dimensions(images):
    factors = parameters(0.5, 1.5)
    stacked = images.unflatten(0, (2, -1))
    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation"):
        function = getattr(color, name)
        ours = function(stacked, factors.unflatten(0, (2, -1))).flatten(0, 1)
        assert torch.equal(ours, function(images, factors))


def test_grey(images):
    if images.shape[1] == 3:
        torch.testing.assert_close(color.grey(images), reference.rgb_to_grayscale(images))
        chosen = torch.arange(COUNT) % 2 == 0
        theirs = reference.rgb_to_grayscale(images, num_output_channels=3)
        expected = torch.where(chosen[:, None, None, None], theirs, images)
        torch.testing.assert_close(color.random_grey(images, chosen), expected)


def test_solarize(images):
    everything = torch.ones(COUNT, dtype=torch.bool)
    assert torch.equal(color.solarize(images, everything), reference.solarize(images, 128 / 255))
    exact = torch.arange(256).reshape(1, 1, 16, 16)
    ours = color.solarize(exact / 255, everything[:1])
    theirs = reference.solarize(exact.to(torch.uint8), 128)
    assert torch.equal((ours * 255).round().to(torch.uint8), theirs)


@pytest.mark.parametrize("radius", [1, 6, 12])
def test_blur(images, radius):
    sigmas = parameters(0.1, 2.0)
    rows = resample.blur_matrix(sigmas, radius, 32)
    width = 2 * radius + 1
    theirs = one_by_one(
        images,
        lambda i, x: reference.gaussian_blur(x, [width, width], [float(sigmas[i])] * 2),
    )
    torch.testing.assert_close(resample.apply(rows, images, rows), theirs, atol=2e-6, rtol=0)


TOP = [0, 3, 5, 8, 0, 20, 0, 31, 16, 2, 9, 1]
HEIGHT = [32, 10, 7, 24, 1, 12, 31, 1, 16, 5, 23, 30]
LEFT = [1, 0, 5, 8, 31, 9, 0, 31, 0, 20, 4, 2]
WIDTH = [31, 32, 9, 24, 1, 7, 32, 1, 32, 12, 28, 29]


@pytest.mark.parametrize("size", [32, 45, 9], ids=["same", "larger", "smaller"])
@pytest.mark.parametrize("flip", [False, True])
def test_resized_crop(images, size, flip):
    top, height, left, width = (torch.tensor(v).float() for v in (TOP, HEIGHT, LEFT, WIDTH))
    start, length = (left + width, -width) if flip else (left, width)
    rows = resample.crop_matrix(top, height, 32, size)
    columns = resample.crop_matrix(start, length, 32, size)
    theirs = one_by_one(
        images,
        lambda i, x: reference.resized_crop(
            x, TOP[i], LEFT[i], HEIGHT[i], WIDTH[i], [size, size], antialias=True
        ),
    )
    theirs = theirs.flip(-1) if flip else theirs
    torch.testing.assert_close(resample.apply(rows, images, columns), theirs, atol=3e-6, rtol=0)

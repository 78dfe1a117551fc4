from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from epg.config.data import AugmentationConfig
from epg.data import augment, color, resample
from epg.diffusion.seeds import SampleNoise

OFF = {
    "crop_scale_min": 1.0,
    "color_jitter": [0.0, 0.0, 0.0, 0.0],
    "grayscale_prob": 0.0,
    "blur_prob": [0.0, 0.0],
    "solarize_prob": [0.0, 0.0],
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(images: torch.Tensor, seed: int = 0, first: int = 0) -> SampleNoise:
    return SampleNoise(seed, "test", 0, first, len(images), images.device)


def batch(count: int, channels: int, size: int = 8) -> torch.Tensor:
    shape = (count, size, size, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(1))


def settings(**changes) -> AugmentationConfig:
    return AugmentationConfig(**{**OFF, **changes})


# --- numbers to and from pixels --------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), (MEAN, STD), ([0.3], [0.05])])
def test_every_value_survives_the_round_trip(mean, std):
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1).repeat(1, 1, 1, 3)
    images = torch.cat([images, images.flip(0)])
    floats = augment.to_float(images, mean, std)
    assert floats.shape == (8, 3, 8, 8)
    assert floats.dtype == torch.float32
    assert floats.is_contiguous()
    assert torch.equal(augment.to_uint8(floats, mean, std), images)


def test_values_follow_the_formula():
    images = batch(2, 3)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    expected = (images.float() / 255 - mean) / (2 * std)
    floats = augment.to_float(images, MEAN, STD)
    torch.testing.assert_close(floats.permute(0, 2, 3, 1), expected)


def test_pixels_are_rounded_and_clamped():
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, 0.0039]).reshape(1, 1, 1, 6)
    pixels = augment.to_uint8(values, [0.5], [0.25])  # pixel = x / 2 + 1 / 2
    assert pixels.flatten().tolist() == [0, 0, 128, 255, 255, 128]
    assert pixels.is_contiguous()


def test_valid_range_is_that_of_the_method():
    low, high = augment.valid_range(MEAN, STD)
    torch.testing.assert_close(low, torch.tensor([-1.0590, -1.0179, -0.9022]), atol=6e-5, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.1245, 1.2143, 1.3200]), atol=6e-5, rtol=0)
    black, white = torch.zeros(1, 1, 1, 3), torch.full((1, 1, 1, 3), 255)
    for pixel, bound in ((black, low), (white, high)):
        value = augment.to_float(pixel.to(torch.uint8), MEAN, STD).flatten()
        torch.testing.assert_close(value, bound)


# --- flips and views -------------------------------------------------------------------------


def test_flip_mirrors_about_half():
    images = augment.to_float(batch(400, 1), [0.5], [0.5])
    flipped = augment.random_flip(images, numbers(images))
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(augment.random_flip(images, numbers(images)), flipped)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_images_and_reproducible(channels):
    images = batch(64, channels, 16)
    first, second = augment.two_views(images, AugmentationConfig(), True, numbers(images))
    for view in (first, second):
        assert view.shape == (64, channels, 16, 16)
        assert view.dtype == torch.float32
        assert 0 <= float(view.min()) < float(view.max()) <= 1
        assert view.isfinite().all()
    assert not torch.equal(first, second)
    again = augment.two_views(images, AugmentationConfig(), True, numbers(images))
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)
    other = augment.two_views(images, AugmentationConfig(), True, numbers(images, 5))
    assert not torch.equal(other[0], first)


def test_everything_off_is_the_image_itself():
    # The whole area with any aspect ratio but 1 does not fit: the crop is the whole image.
    images = batch(32, 3)
    for view in augment.two_views(images, settings(), False, numbers(images)):
        torch.testing.assert_close(view, images.permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)


def test_flips_only_where_they_are_wanted():
    images = batch(200, 1)
    plain = images.permute(0, 3, 1, 2) / 255
    for view in augment.two_views(images, settings(), True, numbers(images)):
        mirrored = ((view - plain.flip(-1)).abs() < 1e-5).flatten(1).all(1)
        kept = ((view - plain).abs() < 1e-5).flatten(1).all(1)
        assert (kept ^ mirrored).all()
        assert 60 < int(mirrored.sum()) < 140


def changed(view: torch.Tensor, images: torch.Tensor) -> float:
    plain = images.permute(0, 3, 1, 2) / 255
    return float(((view - plain).abs() > 1e-5).flatten(1).any(1).float().mean())


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"blur_prob": [1.0, 0.1], "blur_sigma": [0.5, 1.0]}, (1.0, 0.1)),
        ({"solarize_prob": [0.0, 0.2]}, (0.0, 0.2)),
        ({"grayscale_prob": 0.2}, (0.2, 0.2)),
        ({"color_jitter": [0.4, 0.0, 0.0, 0.0], "color_jitter_prob": 0.8}, (0.8, 0.8)),
        ({"color_jitter": [0.0, 0.4, 0.0, 0.0], "color_jitter_prob": 0.8}, (0.8, 0.8)),
        ({"color_jitter": [0.0, 0.0, 0.2, 0.0], "color_jitter_prob": 0.8}, (0.8, 0.8)),
        ({"color_jitter": [0.0, 0.0, 0.0, 0.1], "color_jitter_prob": 0.8}, (0.8, 0.8)),
    ],
)
def test_probabilities_of_each_view(changes, shares):
    images = batch(600, 3)
    views = augment.two_views(images, settings(**changes), False, numbers(images))
    for view, share in zip(views, shares, strict=True):
        assert changed(view, images) == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(
    "changes",
    [
        {"grayscale_prob": 1.0},
        {"color_jitter": [0.0, 0.0, 0.2, 0.1], "color_jitter_prob": 1.0},
    ],
)
def test_colours_of_grey_images_do_not_change(changes):
    images = batch(32, 1)
    for view in augment.two_views(images, settings(**changes), False, numbers(images)):
        assert changed(view, images) == 0


def test_crops_have_the_area_and_ratio_that_were_asked_for(monkeypatch):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original: Callable = resample.crop_matrix

    def spy(start, length, size_in, size_out):
        seen.append((start, length))
        return original(start, length, size_in, size_out)

    monkeypatch.setattr(resample, "crop_matrix", spy)
    monkeypatch.setattr(resample, "apply", lambda rows, images, columns: images)
    images = torch.zeros(2000, 64, 64, 1, dtype=torch.uint8)
    augment.two_views(images, settings(crop_scale_min=0.08), False, numbers(images))
    (top, height), (left, width) = seen
    assert min(float(height.min()), float(width.min())) >= 1
    assert min(float(top.min()), float(left.min())) >= 0
    assert float((top + height).max()) <= 64
    assert float((left + width).max()) <= 64
    area, ratio = height * width / 64**2, width / height
    assert 0.07 < float(area.min()) < 0.1
    assert 0.94 < float(area.max()) <= 1.0
    # Among the largest crops the longish ones do not fit: more than half lie in the lower half.
    image = torch.zeros(1, 64, 64)
    theirs = [RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)]
    expected = sum(h * w < 0.54 * 64**2 for _, _, h, w in theirs) / len(theirs)
    assert float((area < 0.54).float().mean()) == pytest.approx(expected, abs=0.05)
    assert 0.7 < float(ratio.min()) < 0.78
    assert 1.28 < float(ratio.max()) < 1.43
    assert float(top.mean() + height.mean() / 2) == pytest.approx(32, abs=0.6)


def test_orders_of_the_jitter_are_a_latin_square():
    for orders in (augment._ORDERS_RGB, augment._ORDERS_GREY):
        for position in range(len(orders)):
            assert len({order[position] for order in orders}) == len(orders)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_small_batches(count):
    images = batch(count, 3)
    first, second = augment.two_views(images, AugmentationConfig(), True, numbers(images))
    assert first.shape == second.shape == (count, 3, 8, 8)


@pytest.mark.parametrize("cut", [1, 7, 32, 40])
def test_a_view_does_not_depend_on_the_rest_of_its_batch(cut):
    images = batch(48, 3, 16)
    whole = augment.two_views(images, AugmentationConfig(), True, numbers(images))
    for begin, part in ((0, images[:cut]), (cut, images[cut:])):
        views = augment.two_views(part, AugmentationConfig(), True, numbers(part, first=begin))
        for view, expected in zip(views, whole, strict=True):
            torch.testing.assert_close(view, expected[begin : begin + len(part)])


def test_identical_images_in_a_batch_get_different_views():
    images = batch(1, 3).repeat(16, 1, 1, 1)
    first, _ = augment.two_views(images, AugmentationConfig(), True, numbers(images))
    assert len(torch.unique(first.flatten(1), dim=0)) == 16


# --- the parts -------------------------------------------------------------------------------


def test_blur_holds_three_sigma_within_the_image():
    assert resample.blur_radius(2.0, 256) == 6
    assert resample.blur_radius(0.2, 256) == 1
    assert resample.blur_radius(2.0, 4) == 3
    rows = resample.blur_matrix(torch.tensor([0.0, 0.7, 3.0]), 5, 9)
    torch.testing.assert_close(rows.sum(-1), torch.ones(3, 9))
    assert torch.equal(rows[0], torch.eye(9))


def test_crop_matrix_sees_nothing_outside_the_crop():
    rows = resample.crop_matrix(torch.tensor([2.0]), torch.tensor([3.0]), 8, 8)
    assert float(rows[0, :, :2].abs().sum() + rows[0, :, 5:].abs().sum()) == 0
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 8))


def test_neutral_factors_change_nothing_exactly():
    images = torch.rand(4, 3, 6, 6, generator=generator())
    one, zero = torch.ones(4), torch.zeros(4)
    for function in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation):
        assert torch.equal(function(images, one), images)
    assert torch.equal(color.adjust_hue(images, zero), images)
    none = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(color.random_grey(images, none), images)
    assert torch.equal(color.solarize(images, none), images)


@pytest.mark.gpu
def test_views_are_the_same_on_a_gpu_up_to_rounding():
    images = batch(8, 3, 32).cuda()
    first, _ = augment.two_views(images, AugmentationConfig(), True, numbers(images))
    assert first.is_cuda
    assert first.isfinite().all()


@pytest.mark.gpu
def test_nothing_waits_for_a_gpu():
    images = batch(8, 3, 32).cuda()
    random = numbers(images)
    augment.two_views(images, AugmentationConfig(), True, random)  # constants go to the device once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = augment.two_views(images, AugmentationConfig(), True, random)
        for view in (*views, augment.random_flip(views[0], random)):
            augment.normalize(view, MEAN, STD)
        augment.to_float(images, MEAN, STD)
    finally:
        torch.cuda.set_sync_debug_mode("default")

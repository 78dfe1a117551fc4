"""Batches of uint8 pixels to what the networks see: normalisation, flips, two augmented views.

Everything works on whole batches, on the tensors' own device, with the random numbers that it is
given (on that device too). Nothing waits for the device: no number is read back.
Shapes: N images, C channels (1 or 3), H W pixels; stored NHWC in uint8, used NCHW in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from epg.data import color, resample
from epg.data.settings import AugmentationSettings

_CROP_ATTEMPTS = 10
_DRAWS = 2 * _CROP_ATTEMPTS + 12  # and: place 2, flip, jitter 5, grey, blur 2, solarize
_LOG_RATIO = (-0.28768207245178085, 0.28768207245178085)  # ln(3/4), ln(4/3)

# Each operation comes first, second, third and last once: see _jitter.
_ORDERS_RGB = ("bcsh", "chbs", "sbhc", "hscb")
_ORDERS_GREY = ("bc", "cb")


class RandomNumbers(Protocol):
    """Random numbers of the samples at hand, which stand together in a larger batch."""

    @property
    def first(self) -> int:
        """Position of the first of them in that batch."""
        ...

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Return numbers in [0, 1), [N, *shape]; the same name gives the same ones."""
        ...


@functools.lru_cache(maxsize=32)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return [C, 1, 1], kept on the device: a copy in every step would cost more than the sum."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (x − mean) / (2·std) of float images in 0…1, [N, C, H, W].

    Args:
        images: float images in 0…1.
        mean: one value, or one per channel; `std` likewise.
        std: pixel deviation; the result has a deviation of about 0.5.
    """
    device = images.device
    return (images - _column(tuple(mean), device)) / (2 * _column(tuple(std), device))


def to_float(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 [N, H, W, C] as normalised float32 [N, C, H, W]: (x/255 − mean) / (2·std)."""
    return normalize(_unit(images), mean, std)


def to_uint8(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return normalised [N, C, H, W] as uint8 [N, H, W, C]: round(255·(2·std·x + mean)), clamped.

    The exact inverse of `to_float` on its results.
    """
    device = images.device
    pixels = images.float() * (2 * _column(tuple(std), device)) + _column(tuple(mean), device)
    rounded = (pixels * 255).round_().clamp_(0, 255)
    return rounded.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def valid_range(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return what black and white become, (low, high), each float32 [C]."""
    m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    return (-m / (2 * s)).float(), ((1 - m) / (2 * s)).float()


def random_flip(images: Tensor, random: RandomNumbers) -> Tensor:
    """Mirror each image [N, C, H, W] left to right with probability 1/2."""
    chosen = random.uniform("flip") < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def two_views(
    images: Tensor,
    config: AugmentationSettings,
    horizontal_flip: bool,
    random: RandomNumbers,
) -> tuple[Tensor, Tensor]:
    """Return two random views of each image, float32 [N, C, H, W] in 0…1, not yet normalised.

    Args:
        images: uint8 [N, H, W, C].
        config: strengths and probabilities.
        horizontal_flip: whether views are mirrored (never for digits or letters).
        random: source of all randomness, on the images' device.
    """
    return views_of(images, draw_views(random), config, horizontal_flip, random.first)


def draw_views(random: RandomNumbers) -> Tensor:
    """Return the random numbers of both views of each image, in [0, 1), [N, 2, rows]."""
    return random.uniform("views", (2, _DRAWS))


def views_of(
    images: Tensor,
    drawn: Tensor,
    config: AugmentationSettings,
    horizontal_flip: bool,
    first_position: int,
) -> tuple[Tensor, Tensor]:
    """Return `two_views` by random numbers that are drawn already: this part can be compiled.

    Random resized crop, flip, colour jitter, grey, blur, solarize, in this order; blur and
    solarize have a probability for each view.

    Args:
        images: uint8 [N, H, W, C].
        drawn: as of `draw_views`.
        config: strengths and probabilities.
        horizontal_flip: whether views are mirrored.
        first_position: of the first image in the batch of all processes.
    """
    N = len(images)
    both = torch.cat([_unit(images)] * 2)  # [2N, C, H, W]: view 1 of all, then view 2 of all
    draws = _Draws(drawn)
    both = _resized_crop(both, config, horizontal_flip, draws)
    both = _jitter(both, config, draws, first_position)
    both = color.random_grey(both, draws.below(config.grayscale_prob))
    both = _blur(both, config, draws)
    both = color.solarize(both, draws.below_in_view(config.solarize_prob))
    first, second = both.split(N)
    return first, second


def _unit(images: Tensor) -> Tensor:
    """Return uint8 [N, H, W, C] as float32 [N, C, H, W] in 0…1."""
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255


class _Draws:
    """Uniform numbers for a whole call, one row of [2N] after another, drawn at once."""

    def __init__(self, drawn: Tensor) -> None:
        self._rows = iter(drawn.permute(2, 1, 0).flatten(1))

    def unit(self) -> Tensor:
        """Return numbers in [0, 1)."""
        return next(self._rows)

    def between(self, low: float, high: float) -> Tensor:
        """Return numbers in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, probability: float) -> Tensor:
        """Return booleans that are true with `probability`."""
        return self.unit() < probability

    def below_in_view(self, probabilities: Sequence[float]) -> Tensor:
        """Return booleans with a probability for each of the two views."""
        drawn = self.unit().unflatten(0, (2, -1))
        return torch.stack([row < p for row, p in zip(drawn, probabilities, strict=True)]).flatten()


def _resized_crop(
    images: Tensor, config: AugmentationSettings, horizontal_flip: bool, draws: _Draws
) -> Tensor:
    """Cut a random part of each image and resize it to full size, mirrored by chance.

    Area uniform in [crop_scale_min, 1], log aspect ratio uniform in ln 3/4 … ln 4/3; the first of
    ten attempts that fits, else the whole image: torchvision's RandomResizedCrop.
    """
    _, _, H, W = images.shape
    height, width, found = _first_fitting(config.crop_scale_min, H, W, draws)
    height, width = torch.where(found, height, H), torch.where(found, width, W)
    top = (draws.unit() * (H - height + 1)).floor()
    left = (draws.unit() * (W - width + 1)).floor()
    flip = draws.below(0.5 if horizontal_flip else 0.0)
    rows = resample.crop_matrix(top, height, H, H)
    start, length = torch.where(flip, left + width, left), torch.where(flip, -width, width)
    return resample.apply(rows, images, resample.crop_matrix(start, length, W, W))


def _first_fitting(
    scale_min: float, H: int, W: int, draws: _Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """Return heights, widths (whole pixels) and whether any attempt fitted, each [2N]."""
    pairs = [(draws.unit(), draws.unit()) for _ in range(_CROP_ATTEMPTS)]
    area = H * W * (scale_min + (1 - scale_min) * torch.stack([first for first, _ in pairs]))
    low, high = _LOG_RATIO
    ratio = torch.exp(low + (high - low) * torch.stack([second for _, second in pairs]))
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths >= 1) & (widths <= W) & (heights >= 1) & (heights <= H)
    first_fit = fits.to(torch.uint8).argmax(dim=0, keepdim=True)
    return (
        heights.gather(0, first_fit)[0],
        widths.gather(0, first_fit)[0],
        fits.any(dim=0),
    )


def _jitter(
    images: Tensor, config: AugmentationSettings, draws: _Draws, first_position: int
) -> Tensor:
    """Change brightness, contrast, saturation and hue of some images, in one of four orders.

    The order goes by the position in the batch of all processes, which is random already since
    batches are shuffled: no random number has to travel from the device to the host.
    """
    brightness, contrast, saturation, hue = config.color_jitter
    chosen = draws.below(config.color_jitter_prob)
    steps = {
        "b": (color.adjust_brightness, draws.between(max(0.0, 1 - brightness), 1 + brightness)),
        "c": (color.adjust_contrast, draws.between(max(0.0, 1 - contrast), 1 + contrast)),
        "s": (color.adjust_saturation, draws.between(max(0.0, 1 - saturation), 1 + saturation)),
        "h": (color.adjust_hue, draws.between(-hue, hue)),
    }
    if not config.color_jitter_prob or not any(config.color_jitter):
        return images
    channels = images.shape[1]
    orders = _ORDERS_GREY if channels == 1 else _ORDERS_RGB
    strengths = dict(zip("bcsh", config.color_jitter, strict=True))
    paired = images.unflatten(0, (2, -1))  # [2, N, C, H, W]
    factors = {
        name: torch.where(chosen, factor, 0.0 if name == "h" else 1.0).unflatten(0, (2, -1))
        for name, (_, factor) in steps.items()
    }
    changed = torch.empty_like(paired)
    for begin in range(min(len(orders), paired.shape[1])):
        every = slice(begin, None, len(orders))  # positions with the same order
        part = paired[:, every]
        for name in orders[(first_position + begin) % len(orders)]:
            if strengths[name]:
                part = steps[name][0](part, factors[name][:, every])
        changed[:, every] = part
    return changed.flatten(0, 1)


def _blur(images: Tensor, config: AugmentationSettings, draws: _Draws) -> Tensor:
    """Blur some images, each by its own sigma in pixels."""
    low, high = config.blur_sigma
    chosen, sigma = draws.below_in_view(config.blur_prob), draws.between(low, high)
    _, _, H, W = images.shape
    if not any(config.blur_prob) or min(H, W) < 2:
        return images
    sigma = torch.where(chosen, sigma, 0.0)
    rows = resample.blur_matrix(sigma, resample.blur_radius(high, H), H)
    columns = rows if H == W else resample.blur_matrix(sigma, resample.blur_radius(high, W), W)
    return resample.apply(rows, images, columns)

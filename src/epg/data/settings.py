"""What this package asks of a recipe, by shape: it does not know recipes (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class CropSettings(Protocol):
    """How the pixels of an image are made of a file."""

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        ...

    @property
    def channels(self) -> int:
        """1 or 3."""
        ...

    @property
    def crop(self) -> str:
        """`exact` or `fast`: see `sources/crop.py`."""
        ...

    @property
    def encoding(self) -> str:
        """`raw`, `png`, `jpeg` or `passthrough`: see `encoding.py`."""
        ...


class EncodingSettings(CropSettings, Protocol):
    """How an image is stored."""

    @property
    def jpeg_quality(self) -> int:
        """1 to 100, for `jpeg`."""
        ...


class ImageSettings(EncodingSettings, Protocol):
    """The settings of stored images: `data` of a recipe is one."""

    @property
    def num_classes(self) -> int | None:
        """What the source must have; None for any number."""
        ...

    @property
    def classes(self) -> Sequence[str | int] | None:
        """Names or numbers of the classes that are wanted; None for all."""
        ...

    @property
    def limit(self) -> int | None:
        """At most so many images of each class in each split; None for all."""
        ...

    @property
    def held_out_fraction(self) -> float:
        """Part of each class that is never trained on, where the source is not split yet."""
        ...

    @property
    def samples_per_shard(self) -> int | None:
        """Samples of a full shard; None where `shard_bytes` says how large it is."""
        ...

    @property
    def shard_bytes(self) -> int:
        """About how many bytes a full shard has."""
        ...

    @property
    def max_bad_fraction(self) -> float:
        """Part of the images that may be unreadable."""
        ...


class AugmentationSettings(Protocol):
    """Strengths and probabilities of views: `pretrain.augmentation` of a recipe is one."""

    @property
    def crop_scale_min(self) -> float:
        """Smallest area of a crop, as a part of the image."""
        ...

    @property
    def color_jitter(self) -> Sequence[float]:
        """Brightness, contrast, saturation, hue, in torchvision's sense."""
        ...

    @property
    def color_jitter_prob(self) -> float:
        """Probability of the jitter."""
        ...

    @property
    def grayscale_prob(self) -> float:
        """Probability of losing the colours."""
        ...

    @property
    def blur_sigma(self) -> Sequence[float]:
        """Smallest and largest sigma in pixels."""
        ...

    @property
    def blur_prob(self) -> Sequence[float]:
        """Probability of the blur in view 1 and in view 2."""
        ...

    @property
    def solarize_prob(self) -> Sequence[float]:
        """Probability of solarizing view 1 and view 2."""
        ...

"""What a recipe says of its images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epg.config.values import (
    ClassList,
    Deviations,
    Fraction,
    Jitter,
    Means,
    PerView,
    Positive,
    Quality,
    Range,
    Section,
    Size,
)
from epg.errors import UserError


class DataConfig(Section):
    """Where images come from and what they look like once they are stored."""

    source: str = Field(
        description="`digits`, `folder:PATH` with one sub-folder per class, or, on a disk or in an "
        "object store, `idx:FOLDER|URI`, `imagenet:FOLDER|URI`, `parquet:FOLDER|URI`, "
        "`webdataset:FOLDER|URI` (docs/data.md)"
    )
    image_size: Size = Field(description="height and width in pixels")
    channels: Literal[1, 3]
    num_classes: Positive | None = Field(None, description="default: as many as the source has")
    mean: Means | None = Field(
        None, description="pixel mean, 0 to 1; default: measured over the training images"
    )
    std: Deviations | None = Field(None, description="pixel deviation; default: measured, too")
    classes: ClassList | None = Field(
        None, description="names (or numbers from 0) of the classes that are used; default: all"
    )
    limit: Positive | None = Field(
        None, description="images of each class and split that are used; default: all"
    )
    held_out_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    crop: Literal["exact", "fast"] = Field(
        "exact", description="ADM's, by Pillow to the bit, or by PyTorch in a quarter of the time"
    )
    encoding: Literal["raw", "png", "jpeg", "passthrough"] = Field(
        "raw", description="how images are stored; `jpeg` loses, `passthrough` keeps the file"
    )
    jpeg_quality: Quality = 95
    shard_bytes: Positive = Field(256_000_000, description="size of a shard")
    samples_per_shard: Positive | None = Field(None, description="in place of `shard_bytes`")
    max_bad_fraction: Fraction = Field(0.001, description="unreadable images before it stops")
    horizontal_flip: bool = True

    @model_validator(mode="after")
    def _channel_lists(self) -> DataConfig:
        for key in ("mean", "std"):
            length = len(getattr(self, key) or "?")
            if length not in (1, self.channels):
                raise ValueError(
                    f"data.{key} has {length} values, but data.channels is {self.channels}: "
                    f"give 1 value or {self.channels}"
                )
        return self

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to the data."""
        return None not in (self.num_classes, self.mean, self.std)

    @property
    def class_count(self) -> int:
        """The number of classes. Raises `UserError` where it is left to the data."""
        if self.num_classes is None:
            raise _unsettled("num_classes", "N")
        return self.num_classes

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation, one value or one per channel. Raises `UserError` likewise."""
        if self.mean is None or self.std is None:
            raise _unsettled("mean" if self.mean is None else "std", "[...]")
        return self.mean, self.std


def _unsettled(key: str, value: str) -> UserError:
    return UserError(
        f"data.{key} is left to the data, and known once they are sharded: `epg shard` first, or "
        f"--set data.{key}={value}"
    )


class AugmentationConfig(Section):
    """Two views of a clean image; strengths in torchvision's words."""

    crop_scale_min: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08
    color_jitter: Jitter = (0.4, 0.4, 0.2, 0.1)
    color_jitter_prob: Fraction = 0.8
    grayscale_prob: Fraction = 0.2
    blur_sigma: Range = (0.1, 2.0)
    blur_prob: PerView = (1.0, 0.1)
    solarize_prob: PerView = (0.0, 0.2)

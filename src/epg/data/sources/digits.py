"""scikit-learn's bundled handwritten digits: 1,797 real images of 8×8 pixels, 10 classes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from epg.data.settings import ImageSettings
from epg.data.sources.base import (
    Image,
    Item,
    OnRead,
    Reading,
    Source,
    split_items,
    stratified_held_out,
)
from epg.data.sources.contents import Contents
from epg.errors import UserError

USAGE = "digits"
_SIZE = 8
_CLASSES = [str(digit) for digit in range(10)]
_MAX_VALUE = 16  # ink is counted in 4×4 blocks of a 32×32 bitmap


def open(
    location: str, config: ImageSettings, seed: int, contents: Contents | None = None
) -> Source:
    """Return the digits, split by `seed`. Raises `UserError` for another size than theirs."""
    del location, contents
    return DigitsSource(config, seed)


def count_classes(location: str) -> int:
    """Return 10."""
    del location
    return len(_CLASSES)


def contents(location: str, known: Iterable[Contents], on_progress: OnRead | None) -> Contents:
    """Return no files: they are bundled with scikit-learn and unchanged since 1998."""
    del location, known, on_progress
    return Contents(list(_CLASSES), {})


def absolute(location: str) -> str:
    """Return the location, which is none."""
    return location


class DigitsSource:
    """The digits, values 0…16 mapped to round(v·255/16); three channels are three copies.

    Raises:
        UserError: `data.image_size` is not 8.
    """

    spec = "digits"

    def __init__(self, config: ImageSettings, seed: int) -> None:
        if config.image_size != _SIZE:
            raise UserError(
                f"data.image_size is {config.image_size}: scikit-learn's digits have 8×8 pixels; "
                "use --set data.image_size=8, or other images by --data folder:PATH"
            )
        # Imported here: a look at a finished stage needs no scikit-learn.
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        scaled = np.rint(values * 255.0 / _MAX_VALUE).astype(np.uint8)
        pixels = scaled.reshape(-1, _SIZE, _SIZE, 1)
        self.classes = list(_CLASSES)
        self.ignored: dict[str, int] = {}
        indices = [np.flatnonzero(labels == label) for label in range(10)]
        held_out = stratified_held_out([len(i) for i in indices], config.held_out_fraction, seed)
        names = [[f"digit {index}" for index in of_class] for of_class in indices]
        self.items = split_items(names, held_out)
        self._pixels = np.repeat(pixels, config.channels, axis=3)

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield digits, each uint8 [8, 8, C]."""
        for item in items:
            yield item, Image(self._pixels[int(item.name.removeprefix("digit "))])

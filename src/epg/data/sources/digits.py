"""scikit-learn's bundled handwritten digits: 1,797 real images of 8×8 pixels, 10 classes."""

from __future__ import annotations

import contextlib

import numpy as np

from epg.data.settings import ImageSettings
from epg.data.sources.base import Image, Item, split_items, stratified_held_out
from epg.errors import UserError

_SIZE = 8
_MAX_VALUE = 16  # ink is counted in 4×4 blocks of a 32×32 bitmap


class DigitsSource:
    """The digits, values 0…16 mapped to round(v·255/16); three channels are three copies.

    Raises:
        UserError: `data.image_size` is not 8.
    """

    spec = "digits"
    parallel = False

    def __init__(self, config: ImageSettings, seed: int) -> None:
        if config.image_size != _SIZE:
            raise UserError(
                f"data.image_size is {config.image_size}: scikit-learn's digits have 8×8 pixels; "
                "use --set data.image_size=8, or other images by --data folder:PATH"
            )
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        scaled = np.rint(values * 255.0 / _MAX_VALUE).astype(np.uint8)
        pixels = scaled.reshape(-1, _SIZE, _SIZE, 1)
        self.classes = [str(digit) for digit in range(10)]
        self.ignored: dict[str, int] = {}
        indices = [np.flatnonzero(labels == label) for label in range(10)]
        held_out = stratified_held_out([len(i) for i in indices], config.held_out_fraction, seed)
        names = [[f"digit {index}" for index in of_class] for of_class in indices]
        self.items, _ = split_items(names, held_out)
        self._pixels = np.repeat(pixels, config.channels, axis=3)

    def load(self, item: Item) -> Image:
        """Return one digit, uint8 [8, 8, C]."""
        return Image(self._pixels[int(item.name.removeprefix("digit "))])

    def decoding(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to prepare."""
        return contextlib.nullcontext()

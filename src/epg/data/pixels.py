"""What is learnt of pixels while they pass by: mean, deviation, and the originals' sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epg.data.sources.base import Image
from epg.documents import DocumentError, Kind, fields

_DIGITS = 6  # of a mean, 0 to 1
_FIELDS: dict[str, Kind] = {"count": int, "sums": list, "squares": list, "sides": dict}


@dataclass
class PixelSums:
    """Exact sums over images, so that parts may be added up in any order.

    Attributes:
        count: pixels of one channel.
        sums: of the values 0 to 255, per channel.
        squares: of their squares, per channel.
        sides: images by the shorter side of their original, down to a power of two.
    """

    count: int = 0
    sums: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)
    sides: Counter[int] = field(default_factory=Counter)

    def add(self, image: Image) -> None:
        """Add an image, uint8 [H, W, C]; H < 2^16."""
        height, width, channels = image.pixels.shape
        rows = image.pixels.reshape(height, width * channels)
        # Down the columns first, in 32 bits, which 2^16 squares of a byte do not fill.
        sums = rows.sum(0, dtype=np.uint32)
        squares = np.square(rows, dtype=np.uint16).sum(0, dtype=np.uint32)
        side = 1 << (image.shorter_side.bit_length() - 1) if image.shorter_side else 0
        of_channels = (_per_channel(sums, channels), _per_channel(squares, channels))
        self._add(height * width, *of_channels, {side: 1})

    def _add(self, count: int, sums: list[int], squares: list[int], sides: dict[int, int]) -> None:
        self.count += count
        self.sums = [a + b for a, b in zip(self.sums or [0] * len(sums), sums, strict=True)]
        self.squares = [
            a + b for a, b in zip(self.squares or [0] * len(squares), squares, strict=True)
        ]
        self.sides.update(sides)

    @classmethod
    def total(cls, parts: Iterable[PixelSums]) -> PixelSums:
        """Add parts up."""
        total = cls()
        for part in parts:
            if part.count:
                total._add(part.count, part.sums, part.squares, part.sides)
        return total

    def statistics(self) -> dict[str, list[float]]:
        """Return `mean` and `std` per channel, on a scale from 0 to 1; nothing without pixels."""
        if not self.count:
            return {}
        means = [total / self.count for total in self.sums]
        # The variance in whole numbers: nothing cancels.
        spread = [
            math.sqrt(self.count * square - total * total) / self.count
            for total, square in zip(self.sums, self.squares, strict=True)
        ]
        return {
            "mean": [round(mean / 255, _DIGITS) for mean in means],
            "std": [round(one / 255, _DIGITS) for one in spread],
        }

    def to_note(self) -> dict[str, Any]:
        """Return what `from_note` reads."""
        sides = {str(side): n for side, n in sorted(self.sides.items())}
        return {"count": self.count, "sums": self.sums, "squares": self.squares, "sides": sides}

    @classmethod
    def from_note(cls, raw: object) -> PixelSums:
        """Read a note. Raises `DocumentError`."""
        said = fields(raw, _FIELDS)
        numbers = [said["count"], *said["sums"], *said["squares"], *said["sides"].values()]
        right = all(type(number) is int and 0 <= number < 2**80 for number in numbers)
        named = all(name.isdigit() and len(name) < 10 for name in said["sides"])
        if not right or not named or len(said["sums"]) != len(said["squares"]):
            raise DocumentError("sums of pixels are whole numbers")
        sides = Counter({int(side): n for side, n in said["sides"].items()})
        return cls(said["count"], said["sums"], said["squares"], sides)


def _per_channel(columns: NDArray[np.uint32], channels: int) -> list[int]:
    """Add up what columns [W·C] hold, per channel."""
    return columns.reshape(-1, channels).sum(0, dtype=np.uint64).tolist()

"""A source of noise whose shards take two parts of an upload; as a script, it writes them.

python tests/toys/noise_shards.py STORE
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np

from epg.config.data import DataConfig
from epg.data.sharding import write_shards
from epg.data.sources.base import Image, Item, Reading
from epg.store import open_store

IMAGES, SIZE = 480, 128
CONFIG = DataConfig(
    source="digits",
    image_size=SIZE,
    channels=3,
    num_classes=3,
    mean=(0.5,),
    std=(0.5,),
    shard_bytes=20_000_000,
)


class Noise:
    """Images of 128×128 pixels, 49 kB each, that are known by their number."""

    def __init__(self) -> None:
        self.spec, self.classes = "noise", ["a", "b", "c"]
        self.ignored: dict[str, int] = {}
        self.items = [Item("train", n % 3, n // 3, str(n)) for n in range(IMAGES)]
        self.items += [Item("held-out", n, 0, str(n)) for n in range(3)]

    def read(self, items: Iterable[Item]) -> Reading:
        for item in items:
            yield item, Image(picture(int(item.name)))


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


if __name__ == "__main__":
    write_shards(Noise(), CONFIG, 0, open_store(sys.argv[1]), "s")

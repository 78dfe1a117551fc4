"""Which sample goes into which shard: known before any image is read, and the same everywhere."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from epg.data.encoding import planned_bytes
from epg.data.manifest import SPLITS
from epg.data.order import permutation
from epg.data.settings import ImageSettings
from epg.data.sources.base import Item, Source

WINDOW_BYTES = 256 * 1024**2  # of the blocks whose samples are mixed: so much is held in memory


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written: positions of its samples among the source's items."""

    split: str
    number: int
    positions: NDArray[np.int64] = field(compare=False)

    def key(self, prefix: str) -> str:
        """Return its key under the set's folder."""
        return f"{prefix}/{self.split}-{self.number:06d}.tar"

    def items(self, source: Source) -> list[Item]:
        """Return its samples; a million of them are not to be had at a time."""
        return [source.items[position] for position in self.positions.tolist()]

    def digest(self) -> str:
        """Return what tells its samples from those of another plan: 16 digits of a SHA-256."""
        return hashlib.sha256(self.positions.astype("<i8").tobytes()).hexdigest()[:16]


def plan_shards(source: Source, config: ImageSettings, seed: int) -> list[PlannedShard]:
    """Return all shards, their samples shuffled by `seed`."""
    # Train stands before held-out; a million items are not made only to count them.
    of_train = bisect_left(source.items, True, key=lambda item: item.split != SPLITS[0])
    by_size = config.samples_per_shard is None and config.encoding == "passthrough"
    blocks, sizes = getattr(source, "blocks", None), np.zeros(0, np.int64)
    if by_size or blocks is not None:
        sizes = np.fromiter((item.size for item in source.items), np.int64, len(source.items))
    found, start = [], 0
    for index, count in enumerate((of_train, len(source.items) - of_train)):
        if blocks is None:
            order = start + permutation(count, seed, index)
        else:
            within = slice(start, start + count)
            order = start + _by_blocks(blocks[within], sizes[within], seed, index)
        filled = _fitted(order, config, sizes[order]) if by_size else _filled(order, config)
        for number, positions in enumerate(filled):
            found.append(PlannedShard(SPLITS[index], number, positions))
        start += count
    return found


def _by_blocks(blocks: NDArray[np.int64], sizes: NDArray[np.int64], *key: int) -> NDArray[np.int64]:
    """Return a permutation that needs each block once: shuffled blocks, mixed window by window.

    Args:
        blocks: of each sample, the number of the block that must be read to have it, [N].
        sizes: of each sample, in bytes, [N].
        key: of the permutation.
    """
    numbers, which = np.unique(blocks, return_inverse=True)
    turns = permutation(len(numbers), *key)
    cost = np.bincount(which, weights=sizes, minlength=len(numbers))[turns]
    windows = np.empty(len(numbers), np.int64)
    windows[turns] = (np.cumsum(cost) - cost) // WINDOW_BYTES
    mixed = permutation(len(blocks), *key, 1)
    return mixed[np.argsort(windows[which[mixed]], kind="stable")]


def _filled(order: NDArray[np.int64], config: ImageSettings) -> list[NDArray[np.int64]]:
    """Cut an order into shards of as many samples."""
    by_bytes = max(1, int(config.shard_bytes // planned_bytes(config)))
    most = config.samples_per_shard or by_bytes
    return [order[first : first + most] for first in range(0, len(order), most)]


def _fitted(
    order: NDArray[np.int64], config: ImageSettings, sizes: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Cut an order into shards by the sizes of its files, known before anything is read."""
    cuts, filled = [], 0.0
    for place, size in enumerate(sizes.tolist()):
        added = planned_bytes(config, max(0, size))
        if filled and filled + added > config.shard_bytes:
            cuts.append(place)
            filled = 0.0
        filled += added
    return [shard for shard in np.split(order, cuts) if len(shard)]

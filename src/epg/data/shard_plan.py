"""Which sample goes into which shard: known before any image is read, and the same everywhere."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.encoding import planned_bytes
from epg.data.manifest import SPLITS
from epg.data.order import permutation
from epg.data.settings import ImageSettings
from epg.data.sources.base import Item, Source


class PlannedShard(NamedTuple):
    """A shard before it is written: positions of its samples among the source's items."""

    split: str
    number: int
    positions: NDArray[np.int64]

    def key(self, prefix: str) -> str:
        """Return its key under the set's folder."""
        return f"{prefix}/{self.split}-{self.number:06d}.tar"

    def items(self, source: Source) -> list[Item]:
        """Return its samples; a million of them are not to be had at a time."""
        return [source.items[position] for position in self.positions.tolist()]


def plan_shards(source: Source, config: ImageSettings, seed: int) -> list[PlannedShard]:
    """Return all shards, their samples shuffled by `seed`."""
    counts = Counter(item.split for item in source.items)  # train stands before held-out
    found, start = [], 0
    for index, split in enumerate(SPLITS):
        order = start + permutation(counts[split], seed, index)
        start += counts[split]
        filled = enumerate(_filled(source, order, config))
        found += [PlannedShard(split, number, positions) for number, positions in filled]
    return found


def _filled(
    source: Source, order: NDArray[np.int64], config: ImageSettings
) -> list[NDArray[np.int64]]:
    """Cut an order into shards, by what is known before anything is read."""
    if config.samples_per_shard is not None or config.encoding != "passthrough":
        by_bytes = max(1, int(config.shard_bytes // planned_bytes(config)))
        most = config.samples_per_shard or by_bytes
        return [order[first : first + most] for first in range(0, len(order), most)]
    sizes = (source.items[position].size for position in order.tolist())
    cuts, filled = [], 0.0
    for place, size in enumerate(sizes):
        added = planned_bytes(config, max(0, size))
        if filled and filled + added > config.shard_bytes:
            cuts.append(place)
            filled = 0.0
        filled += added
    return [shard for shard in np.split(order, cuts) if len(shard)]

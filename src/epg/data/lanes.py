"""The order of a split that does not fit into memory: a pure function of (seed, epoch, position).

The shards of an epoch stand in a shuffled row. The row is cut into as many equal lanes as divide a
batch, up to 64, and each batch takes as many samples of every lane: so it mixes 64 places of the
data set, and a process that gets a slice of each batch reads only the lanes of its slice. A lane
is read through windows of consecutive samples, which are shuffled. Where a window lies follows from
arithmetic, so any position is found without going there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.order import permutation

MOST_LANES = 64


class WindowKey(NamedTuple):
    """Window `number` of a lane of an epoch."""

    epoch: int
    lane: int
    number: int


class Run(NamedTuple):
    """Consecutive samples of a shard: `rows` of them, from row `first` on."""

    shard: int
    first: int
    rows: int


class Seats(NamedTuple):
    """Where the samples of a window go, in the order in which they lie in their shards.

    Attributes:
        steps: the batch of each of them [N].
        rows: its row in the process's part of that batch; another process's is negative, or beyond.
    """

    steps: NDArray[np.int64]
    rows: NDArray[np.int64]


class Lanes:
    """The order for one size of batch.

    Args:
        counts: samples of each shard.
        batch_size: samples of a step over all processes.
        window_samples: samples that all windows hold together.
        seed: of the order.
    """

    def __init__(
        self, counts: NDArray[np.int64], batch_size: int, window_samples: int, seed: int
    ) -> None:
        self._counts, self._seed = counts, seed
        self._total = int(counts.sum())
        self.batch_size = batch_size
        self.lanes = max(n for n in range(1, MOST_LANES + 1) if batch_size % n == 0)
        self.window = max(1, window_samples // self.lanes)

    def windows(self, step: int, rank: int, world_size: int) -> list[WindowKey]:
        """Return the windows that a process's part of a batch is in."""
        local = self.batch_size // world_size
        place = np.arange(rank * local, (rank + 1) * local)
        per_lane = self.batch_size // self.lanes
        position = step * self.batch_size + place % per_lane * self.lanes + place // per_lane
        epochs, within = np.divmod(position, self._total)
        lanes, indices = within % self.lanes, within // self.lanes
        first = np.maximum(1, (lanes + 1) * self.window // self.lanes)
        numbers = np.where(indices < first, 0, 1 + (indices - first) // self.window)
        columns = (epochs.tolist(), lanes.tolist(), numbers.tolist())
        return list(dict.fromkeys(map(WindowKey, *columns)))

    def seats(self, key: WindowKey, rank: int, world_size: int) -> Seats:
        """Return where a window's samples go: it is shuffled."""
        begin, end = self._bounds(key)
        indices = np.empty(end - begin, np.int64)
        order = permutation(end - begin, self._seed, key.epoch, 1, key.lane, key.number)
        indices[order] = np.arange(begin, end)
        steps, places = np.divmod(self._position(key, indices), self.batch_size)
        per_lane = self.batch_size // self.lanes
        rows = places % self.lanes * per_lane + places // self.lanes
        return Seats(steps, rows - rank * (self.batch_size // world_size))

    def steps(self, key: WindowKey) -> range:
        """Return the batches that a window is in."""
        begin, end = self._bounds(key)
        ends = self._position(key, np.array([begin, end - 1])) // self.batch_size
        return range(int(ends[0]), int(ends[1]) + 1)

    def runs(self, key: WindowKey) -> list[Run]:
        """Return what a window holds, in the order of the row of shards; empty beyond its lane."""
        begin, end = self._bounds(key)
        share, more = divmod(self._total, self.lanes)
        start = key.lane * share + min(key.lane, more)
        shards, offsets = self._row(key.epoch)
        found = []
        at, stop = start + begin, start + end
        while at < stop:
            number = int(np.searchsorted(offsets, at, "right")) - 1
            first = at - int(offsets[number])
            count = min(int(self._counts[shards[number]]) - first, stop - at)
            found.append(Run(int(shards[number]), first, count))
            at += count
        return found

    def following(self, key: WindowKey) -> WindowKey | None:
        """Return the window that a process wants after this one; None where it is not there."""
        following = key._replace(number=key.number + 1)
        if self._size(following) == 0:  # the lane goes on in the next epoch, under another number
            following = WindowKey(key.epoch + 1, (key.lane - self._total) % self.lanes, 0)
        return following if self._size(following) else None

    def _position(self, key: WindowKey, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where samples of a lane stand among all samples of all epochs."""
        return key.epoch * self._total + indices * self.lanes + key.lane

    def _size(self, key: WindowKey) -> int:
        begin, end = self._bounds(key)
        return end - begin

    def _bounds(self, key: WindowKey) -> tuple[int, int]:
        """Return which of its lane's samples a window has: begin and end.

        First windows are shorter, each lane's a little more than that of the one before: so lanes
        do not all ask for their next window at the same step.
        """
        most = -(-(self._total - key.lane) // self.lanes) if key.lane < self._total else 0
        first = max(1, (key.lane + 1) * self.window // self.lanes)
        begin = first + (key.number - 1) * self.window if key.number else 0
        end = first + key.number * self.window
        return min(begin, most), min(end, most)

    def _row(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return an epoch's shards in their order, and where each begins."""
        return _shuffled_row(self._counts.tobytes(), self._seed, epoch)


@lru_cache(maxsize=4)
def _shuffled_row(
    counts: bytes, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sizes = np.frombuffer(counts, np.int64)
    shards = permutation(len(sizes), seed, epoch, 0)
    return shards, np.concatenate([[0], np.cumsum(sizes[shards])])

"""What a process holds of a large split: batches to come, filled window by window.

A window is read as a whole, and each of its images goes straight to its row of the batch that it
will be used in. So nothing is copied when a batch is wanted, and the memory of the windows is that
of the batches.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.lanes import Lanes, WindowKey
from epg.data.shard_reading import Buffers, SplitShards

_KEPT = 4  # batches that were handed out, whose memory is used again


class Batch(NamedTuple):
    """Images uint8 [B, H, W, C], labels int64 [B], ids int64 [B] (position within the split).

    Memory of images is filled again once nobody holds them or a view of them.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


class Windows:
    """The batches of a process from some step on.

    Args:
        shards: of the split.
        lanes: the order.
        pool: threads that read.
        rank: which slice of each global batch is wanted.
        world_size: number of slices.
        step: number of the first batch; nothing that comes before is read.
    """

    def __init__(
        self,
        shards: SplitShards,
        lanes: Lanes,
        pool: ThreadPoolExecutor,
        rank: int,
        world_size: int,
        step: int,
    ) -> None:
        self._shards, self._lanes, self._pool = shards, lanes, pool
        self._part = (rank, world_size)
        self._step = step
        local = lanes.batch_size // world_size
        self._batches = Batches((local, *shards.shape))
        self._coming: dict[int, Batch] = {}
        self._reads: dict[WindowKey, _Reading] = {}
        self._buffers = Buffers()
        self._next = lanes.windows(step, *self._part)
        self._begun: set[WindowKey] = set()

    def take(self) -> Batch:
        """Return the next batch. Raises `UserError`."""
        wanted, self._next = self._next, self._lanes.windows(self._step + 1, *self._part)
        for key in [*wanted, *self._next]:
            self._ask(key)
        for key in wanted:
            if key not in self._begun:
                after = self._lanes.following(key)
                if after is not None:
                    self._ask(after)
        self._begun = set(wanted)
        done = [self._reads[key].done for key in wanted]
        wait(done, return_when=FIRST_EXCEPTION)  # to be woken once, not by each of them
        for read in done:
            read.result()
        batch = self._coming.pop(self._step)
        self._step += 1
        self._reads = {key: read for key, read in self._reads.items() if self._step < read.end}
        return self._batches.hand_out(batch)

    def _ask(self, key: WindowKey) -> None:
        """Have a window read, unless it is, and make room for the batches that it is in."""
        if key in self._reads:
            return
        into, steps = {}, self._lanes.steps(key)
        for step in steps:
            if step >= self._step:
                if step not in self._coming:
                    self._coming[step] = self._batches.take()
                into[step] = self._coming[step]
        self._reads[key] = _Reading(self._pool.submit(self._read, key, into), steps.stop)

    def _read(self, key: WindowKey, into: Mapping[int, Batch]) -> None:
        """Read a window's images, labels and ids into batches."""
        steps, rows = (column.tolist() for column in self._lanes.seats(key, *self._part))
        done = 0
        for run in self._lanes.runs(key):
            targets: list[NDArray[np.uint8] | None] = []
            samples = slice(done, done + run.rows)
            of_run = zip(self._shards.labels(run), self._shards.ids(run), strict=True)
            for (label, number), step, row in zip(
                of_run, steps[samples], rows[samples], strict=True
            ):
                batch = into.get(step)  # none of what comes before the first step
                if batch is None or not 0 <= row < len(batch.ids):
                    targets.append(None)
                    continue
                targets.append(batch.images[row])
                batch.labels[row], batch.ids[row] = label, number
            self._shards.read(run, targets, self._buffers)
            done += run.rows


class _Reading(NamedTuple):
    """A window that is being read, or was: no batch from `end` on needs it."""

    done: Future[None]
    end: int


class Batches:
    """Memory for batches, used again once nobody else holds it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._used: deque[NDArray[np.uint8]] = deque(maxlen=_KEPT)

    def take(self) -> Batch:
        """Return a batch with any content."""
        held = [_references(array) for array in self._used]
        if _REFERENCES in held:
            images = self._used[held.index(_REFERENCES)]
            del self._used[held.index(_REFERENCES)]
        else:
            images = np.empty(self._shape, np.uint8)
        count = self._shape[0]
        return Batch(images, np.empty(count, np.int64), np.empty(count, np.int64))

    def hand_out(self, batch: Batch) -> Batch:
        """Return the batch; note that its memory may be used again once nobody holds it."""
        self._used.append(batch.images)
        return batch


def _references(array: NDArray[np.uint8]) -> int:
    """Count who refers to an array."""
    return sys.getrefcount(array)


def _references_of_nobody_else() -> int:
    """Count as `Batches` does: it differs between versions of Python."""
    kept = [np.empty(0, np.uint8)]
    return next(count for count in (_references(array) for array in kept))


_REFERENCES = _references_of_nobody_else()

"""What a process holds of a large split, and the batches that are filled from it."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.lanes import Lanes, Slice, WindowKey
from epg.data.shard_reading import Buffers, Loaded, SplitShards

_KEPT = 4  # batches whose memory is used again


class Batch(NamedTuple):
    """Images uint8 [B, H, W, C], labels int64 [B], ids int64 [B] (position within the split).

    Memory of images is filled again once nobody holds them or a view of them.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


class Windows:
    """The windows that a process holds, and those that are being read for it."""

    def __init__(self, shards: SplitShards, lanes: Lanes, pool: ThreadPoolExecutor) -> None:
        self._shards, self._lanes, self._pool = shards, lanes, pool
        self._buffers = Buffers()
        self._held: dict[WindowKey, Future[_Window]] = {}

    def ask_for(self, wanted: Slice, following: Slice) -> None:
        """Have read what a batch needs, what the next one needs, and what comes after that."""
        for key in dict.fromkeys([*wanted.keys, *following.keys]):
            self._ask(key)
        for key in dict.fromkeys(wanted.keys):
            after = self._lanes.following(key)
            if after is not None:
                self._ask(after)

    def fill(self, batch: Batch, wanted: Slice) -> None:
        """Copy a batch's images, labels and ids."""
        ends = [i for i in range(1, len(wanted.keys)) if wanted.keys[i] != wanted.keys[i - 1]]
        for begin, end in zip([0, *ends], [*ends, len(wanted.keys)], strict=True):
            window = self._held[wanted.keys[begin]].result()
            rows = wanted.rows[begin:end]
            chosen = window.order[wanted.places[begin:end]]
            copy_images(window.loaded, chosen, batch.images, rows)
            batch.labels[rows] = window.loaded.labels[chosen]
            batch.ids[rows] = window.loaded.ids[chosen]

    def forget_all_but(self, following: Slice) -> None:
        """Give up what no later batch needs: all that is read, but not wanted next or ahead."""
        needed = set(following.keys)
        ahead = {self._lanes.following(key) for key in needed}
        for key in [key for key in self._held if key not in needed and key not in ahead]:
            self._buffers.give(self._held.pop(key).result().loaded.buffer)

    def _ask(self, key: WindowKey) -> None:
        if key not in self._held:
            self._held[key] = self._pool.submit(self._read, key)

    def _read(self, key: WindowKey) -> _Window:
        loaded = self._shards.load(self._lanes.runs(key), self._buffers)
        return _Window(loaded, self._lanes.order(key))


class _Window(NamedTuple):
    """Images as they lie in their shards, and the order in which they are used."""

    loaded: Loaded
    order: NDArray[np.int64]


class Batches:
    """Memory for batches, used again once nobody else holds it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._kept: list[NDArray[np.uint8]] = []

    def take(self) -> Batch:
        """Return a batch with any content."""
        held = [_references(array) for array in self._kept]
        if _REFERENCES in held:
            images = self._kept[held.index(_REFERENCES)]
        else:
            images = np.empty(self._shape, np.uint8)
            if len(self._kept) < _KEPT:
                self._kept.append(images)
        count = self._shape[0]
        return Batch(images, np.empty(count, np.int64), np.empty(count, np.int64))


def _references(array: NDArray[np.uint8]) -> int:
    """Count who refers to an array."""
    return sys.getrefcount(array)


def _references_of_nobody_else() -> int:
    """Count as `Batches` does: it differs between versions of Python."""
    kept = [np.empty(0, np.uint8)]
    return next(count for count in (_references(array) for array in kept))


_REFERENCES = _references_of_nobody_else()


def copy_images(
    loaded: Loaded, chosen: NDArray[np.int64], images: NDArray[np.uint8], rows: NDArray[np.int64]
) -> None:
    """Copy chosen images to rows of [N, H, W, C]: once, from where they were read to."""
    flat = images.reshape(len(images), -1)
    size, buffer = flat.shape[1], loaded.buffer
    starts = loaded.starts[chosen].tolist()
    for row, start in zip(rows.tolist(), starts, strict=True):
        flat[row] = buffer[start : start + size]

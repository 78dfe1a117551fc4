"""Read shards in an order that is a pure function of (seed, epoch); resume is an offset.

A split that fits into the window is read once and stays in memory, shuffled as a whole in each
epoch. A larger one is read in windows of consecutive samples (`lanes.py`): each process reads the
windows of its own part of the batches, the next ones ahead, by large sequential reads into memory
that is used again, decoded in the threads that read. Nothing altered is ever used.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.lanes import Lanes, Run
from epg.data.manifest import Manifest
from epg.data.order import permutation
from epg.data.shard_cache import ShardCache
from epg.data.shard_reading import Buffers, SplitShards
from epg.data.windows import Batch, Batches, Windows
from epg.errors import UserError
from epg.machine import available_cores
from epg.store.base import Store

WINDOW_BYTES = 1024**3
_TAR_BYTES = 2048  # of headers, label and padding around an image
_CHUNK_BYTES = 16 * 1024**2  # of one read of a split that is read as a whole
_MOST_THREADS = 16


class _Arrays(NamedTuple):
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class ShardReader:
    """One split of a data set, from the store or the cache that `EPG_CACHE_DIR` asks for.

    Args:
        store: the run's store; the manifest's keys are relative to it.
        manifest: the data set.
        split: `train` or `held-out`.
        window_bytes: how much decoded data all processes hold together, so each a part of it: half
            of it is mixed, half is read ahead. A split that fits stays in memory, in every process,
            after the first reading. It is part of the order.

    Raises:
        UserError: unknown or empty split, or a cache that cannot be used.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        split: str,
        *,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.split = split
        self.num_samples = manifest.num_samples(split)
        if not self.num_samples:
            raise UserError(f"the split {split!r} of {manifest.source} has no samples")
        cache = ShardCache.from_environment(manifest)
        self.shards = SplitShards(store, manifest, split, cache)
        self.shape = self.shards.shape
        self._window_samples = window_bytes // 2 // (self.shards.sample_bytes + _TAR_BYTES)
        self._keep = self.num_samples * self.shards.sample_bytes <= window_bytes
        self._kept: _Arrays | None = None

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the whole split in order: images uint8 [N, H, W, C], labels int64 [N].

        Raises:
            UserError: a shard is missing, altered, or not a shard.
        """
        if self._kept is not None:
            return self._kept
        arrays = self._load_all()
        if self._keep:
            for array in arrays:
                array.flags.writeable = False  # shared by all later readers
            self._kept = arrays
        return arrays

    def batches(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Generator[Batch, None, None]:
        """Yield shuffled batches without end; each id occurs exactly once per epoch.

        Batches cross the borders of windows and epochs. The k-th batch depends on (manifest,
        window, seed, batch_size, k) alone, not on the number of ranks; starting at `start_step`
        reads nothing that comes before.

        Args:
            batch_size: samples of a step over all ranks.
            seed: order of the samples.
            start_step: number of the first batch.
            rank: which slice of each global batch is returned.
            world_size: number of slices; it must divide `batch_size`.
        """
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch_size is {batch_size}: it must be a multiple of the number of "
                f"processes ({world_size})"
            )
        if not 0 <= rank < world_size or start_step < 0 or seed < 0:
            raise ValueError(f"rank {rank} of {world_size}, start_step {start_step}, seed {seed}")
        if self._keep:
            return self._from_memory(batch_size, seed, start_step, rank, world_size)
        lanes = Lanes(self.shards.counts, batch_size, self._window_samples, seed)
        return self._from_windows(lanes, start_step, rank, world_size)

    def _from_memory(
        self, batch_size: int, seed: int, step: int, rank: int, world_size: int
    ) -> Generator[Batch, None, None]:
        images, labels = self.load()
        local = batch_size // world_size
        batches = Batches((local, *self.shape))
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            batch = batches.take()
            filled = 0
            while filled < local:
                position = step * batch_size + rank * local + filled
                if position // self.num_samples != epoch:
                    epoch = position // self.num_samples
                    order = self._order_of_all(seed, epoch)
                begin = position % self.num_samples
                batch.ids[filled:] = _padded(order[begin : begin + local - filled], local - filled)
                filled += min(local - filled, self.num_samples - begin)
            np.take(images, batch.ids, axis=0, out=batch.images, mode="clip")  # else it is buffered
            np.take(labels, batch.ids, out=batch.labels)
            yield batches.hand_out(batch)
            del batch
            step += 1

    def _order_of_all(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the ids of an epoch: shards in their order, then all of their samples shuffled."""
        counts = self.shards.counts
        starts = np.cumsum(counts) - counts
        row = [
            np.arange(starts[i], starts[i] + counts[i])
            for i in permutation(len(counts), seed, epoch, 0).tolist()
        ]
        return np.concatenate(row)[permutation(self.num_samples, seed, epoch, 1, 0)]

    def _from_windows(
        self, lanes: Lanes, step: int, rank: int, world_size: int
    ) -> Generator[Batch, None, None]:
        with ThreadPoolExecutor(_threads(), "shard-reader") as pool:
            windows = Windows(self.shards, lanes, pool, rank, world_size, step)
            try:
                while True:
                    yield windows.take()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load_all(self) -> _Arrays:
        """Read the whole split, by parts in several threads."""
        counts, size = self.shards.counts, self.shards.sample_bytes
        for info in self.shards.infos:  # memory is asked for only where there is so much to read
            if self.manifest.encoding == "raw" and info.num_samples * size > info.size:
                raise UserError(
                    f"shard {self.store.uri.rstrip('/')}/{info.key} has {info.size} bytes, too few "
                    f"for the {info.num_samples} samples of the manifest: make the shards again "
                    "with `epg shard`"
                )
        for number in range(len(counts)):
            self.shards.index(number)
        arrays = _Arrays(
            np.empty((self.num_samples, *self.shape), np.uint8),
            np.empty(self.num_samples, np.int64),
        )
        buffers = Buffers()
        rows = max(1, _CHUNK_BYTES // (size + _TAR_BYTES))

        def load(run: Run) -> None:
            ids = self.shards.ids(run)
            images = arrays.images[ids[0] : ids[0] + run.rows]
            self.shards.read(run, list(images), buffers)
            arrays.labels[ids] = self.shards.labels(run)

        runs = [
            Run(number, first, min(rows, count - first))
            for number, count in enumerate(counts.tolist())
            for first in range(0, count, rows)
        ]
        with ThreadPoolExecutor(_threads(), "shard-reader") as pool:
            try:
                for done in [pool.submit(load, run) for run in runs]:
                    done.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return arrays


def _padded(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return values and zeros up to a length: what follows is filled later."""
    return np.pad(values, (0, length - len(values))) if len(values) < length else values


def _threads() -> int:
    """Threads that read, check and decode: also on one core, one waits while another works."""
    return max(2, min(available_cores(), _MOST_THREADS))

"""Read shards in an order that is a pure function of (seed, epoch); resume is an offset.

numpy only. A shard is read whole, checked against the manifest's SHA-256, and decoded into one
array; nothing of an altered shard is ever used. Shards are permuted in each epoch and loaded in
groups of bounded size (one group ahead, in a thread); samples are permuted within a group.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.manifest import Manifest, ShardInfo
from epg.data.order import permutation
from epg.data.shard_format import ShardError, decode_label, decode_pixels, read_members
from epg.errors import UserError
from epg.store.base import Store
from epg.store.reading import PAUSE_SECONDS, READS

_PIECE = 1024 * 1024
_WINDOW_BYTES = 1024**3


class Batch(NamedTuple):
    """Images uint8 [B, H, W, C], labels int64 [B], ids int64 [B] (position within the split)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


class _Arrays(NamedTuple):
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class _Group(NamedTuple):
    """Samples `start` … `start + len(ids)` of the endless stream, from the given shards."""

    start: int
    shards: list[int]
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]  # where each id lies in the group's own arrays


class ShardReader:
    """One split of a data set.

    Args:
        store: the run's store; the manifest's keys are relative to it.
        manifest: the data set.
        split: `train` or `held-out`.
        window_bytes: how much decoded data is held. A split that fits stays in memory after the
            first reading. Of a larger one two groups are held, the one that is mixed and the next
            one: each has as many shards as fit into half the window, and at least one. So memory
            is bounded by `window_bytes`, or by two shards where those are larger, and one encoded
            shard on its way. It is part of the order.

    Raises:
        UserError: unknown or empty split.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        split: str,
        *,
        window_bytes: int = _WINDOW_BYTES,
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.split = split
        self.shards = manifest.shards(split)
        self.num_samples = manifest.num_samples(split)
        if not self.num_samples:
            raise UserError(f"the split {split!r} of {manifest.source} has no samples")
        self.shape = (manifest.image_size, manifest.image_size, manifest.channels)
        self._sample_bytes = int(np.prod(self.shape))
        self._group_bytes = window_bytes // 2
        self._counts = np.array([shard.num_samples for shard in self.shards], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._counts)])
        self._keep = self.num_samples * self._sample_bytes <= window_bytes
        self._kept: _Arrays | None = None

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the whole split in order: images uint8 [N, H, W, C], labels int64 [N].

        Raises:
            UserError: a shard is missing, altered, or not a shard.
        """
        if self._kept is not None:
            return self._kept
        arrays = self._load_shards(list(range(len(self.shards))))
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

        Batches cross the borders of groups and epochs. The k-th batch depends on (manifest,
        window, seed, batch_size, k) alone, not on the number of ranks; starting at `start_step`
        loads no group before its own.

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
        return self._stream(batch_size, seed, start_step, rank, batch_size // world_size)

    def _stream(
        self, batch_size: int, seed: int, step: int, rank: int, local: int
    ) -> Generator[Batch, None, None]:
        loaded = self._loaded_groups(seed, step * batch_size + rank * local)
        group, arrays = next(loaded)
        while True:
            first = step * batch_size + rank * local
            batch = Batch(
                np.empty((local, *self.shape), np.uint8),
                np.empty(local, np.int64),
                np.empty(local, np.int64),
            )
            filled = 0
            while filled < local:
                while first + filled >= group.start + len(group.ids):
                    del arrays  # now: asking for the next group starts reading the one after it
                    group, arrays = next(loaded)
                begin = first + filled - group.start
                chosen = slice(begin, begin + local - filled)
                rows = group.rows[chosen]
                target = slice(filled, filled + len(rows))
                np.take(arrays.images, rows, axis=0, out=batch.images[target])
                batch.labels[target] = arrays.labels[rows]
                batch.ids[target] = group.ids[chosen]
                filled += len(rows)
            yield batch
            step += 1

    def _groups(self, seed: int, position: int) -> Iterator[_Group]:
        """Yield the groups of the endless stream, beginning with the one that holds `position`."""
        epoch = position // self.num_samples
        while True:
            start = epoch * self.num_samples
            for number, shards in enumerate(self._shard_groups(seed, epoch)):
                count = int(self._counts[shards].sum())
                if start + count > position:
                    rows = permutation(count, seed, epoch, 1, number)
                    ids = np.concatenate(
                        [np.arange(self._offsets[i], self._offsets[i + 1]) for i in shards]
                    )
                    yield _Group(start, shards, ids[rows], rows)
                start += count
            epoch += 1

    def _shard_groups(self, seed: int, epoch: int) -> Iterator[list[int]]:
        """Yield the epoch's shards in their order, as many at a time as half the window holds."""
        group: list[int] = []
        size = 0
        for index in permutation(len(self.shards), seed, epoch, 0).tolist():
            added = int(self._counts[index]) * self._sample_bytes
            if group and size + added > self._group_bytes:
                yield group
                group, size = [], 0
            group.append(index)
            size += added
        yield group

    def _loaded_groups(self, seed: int, position: int) -> Iterator[tuple[_Group, _Arrays]]:
        if self._keep:
            arrays = _Arrays(*self.load())
            for group in self._groups(seed, position):
                yield group._replace(rows=group.ids), arrays
            return
        with ThreadPoolExecutor(1, thread_name_prefix="shard-reader") as pool:
            ahead: tuple[_Group, Future[_Arrays]] | None = None
            for group in self._groups(seed, position):
                following = (group, pool.submit(self._load_shards, group.shards))
                if ahead is not None:
                    yield ahead[0], ahead[1].result()
                ahead = following

    def _load_shards(self, indices: list[int]) -> _Arrays:
        for index in indices:
            info = self.shards[index]
            if info.num_samples * self._sample_bytes > info.size:
                raise UserError(
                    f"shard {self._where(info)} has {info.size} bytes, too few for the "
                    f"{info.num_samples} samples of the manifest: make the shards again with "
                    "`epg shard`"
                )
        count = int(self._counts[indices].sum())
        arrays = _Arrays(np.empty((count, *self.shape), np.uint8), np.empty(count, np.int64))
        start = 0
        for index in indices:
            info = self.shards[index]
            end = start + info.num_samples
            part = _Arrays(arrays.images[start:end], arrays.labels[start:end])
            _decode_shard(self._where(info), read_verified(self.store, info), self, part)
            start = end
        return arrays

    def _where(self, info: ShardInfo) -> str:
        return f"{self.store.uri.rstrip('/')}/{info.key}"


def read_verified(store: Store, info: ShardInfo) -> bytearray:
    """Return a shard's bytes. Raises `UserError` unless size and SHA-256 are the manifest's."""
    for look in range(1, READS + 1):
        try:
            return _read_verified(store, info)
        except ShardError as error:  # the fault may be the reading's
            if look == READS:
                raise UserError(
                    f"shard {store.uri.rstrip('/')}/{info.key} has {error}: it was cut or altered; "
                    "put back a copy of it if there is one, or move it away and run the same "
                    "command again to write it anew"
                ) from None
            time.sleep(PAUSE_SECONDS * look)
    raise AssertionError("unreachable")


def _read_verified(store: Store, info: ShardInfo) -> bytearray:
    """Read a shard once. Raises `ShardError` unless size and SHA-256 are the manifest's."""
    data = bytearray()  # it grows with what comes: the manifest's size may be anything
    digest = hashlib.sha256()
    with store.open(info.key) as stream:
        while len(data) <= info.size and (piece := stream.read(_PIECE)):
            data += piece
            digest.update(piece)
    if len(data) != info.size:
        amount = f"more than {info.size}" if len(data) > info.size else str(len(data))
        raise ShardError(
            f"{amount} bytes, the manifest says {info.size} with SHA-256 {info.sha256}"
        )
    if digest.hexdigest() != info.sha256:
        raise ShardError(f"SHA-256 {digest.hexdigest()}, the manifest says {info.sha256}")
    return data


def _decode_shard(where: str, data: bytearray, reader: ShardReader, target: _Arrays) -> None:
    """Fill `target` from a shard's bytes. Raises `UserError` naming the shard and the member."""
    count, num_classes = len(target.labels), len(reader.manifest.classes)
    done, key = 0, ""
    try:
        members = read_members(data)
        for image in members:
            key = image.key
            label = next(members, None)
            if image.extension != "npy" or label is None or label[:2] != (image.key, "cls"):
                raise ShardError("a sample is one .npy followed by its .cls")
            if not key.startswith(f"{reader.split}/"):
                raise ShardError(f"the sample is not of the split {reader.split!r}")
            if done == count:
                raise ShardError(f"more samples than the {count} of the manifest")
            target.images[done] = decode_pixels(image.content, reader.shape)
            target.labels[done] = decode_label(label.content, num_classes)
            done += 1
        if done != count:
            raise ShardError(f"{done} samples, the manifest says {count}")
    except ShardError as error:
        place = f" at sample {key}" if key else ""
        raise UserError(
            f"shard {where} cannot be used{place}: {error}; make the shards again with `epg shard`"
        ) from None

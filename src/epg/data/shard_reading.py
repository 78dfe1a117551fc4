"""Images out of shards, by parts, each checked before it is used.

A part of a shard is read by one ranged read into a buffer that is used again. Every image is held
against the CRC-32 of the index, the index against the SHA-256 of the manifest. A shard without an
index, as format 1 has them or because it was lost, is read whole once, checked against the
SHA-256 of the manifest, and its index made of it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from epg.data.encoding import StoredFormat, decode_image
from epg.data.lanes import Run
from epg.data.manifest import Manifest, ShardInfo
from epg.data.shard_cache import ShardCache
from epg.data.shard_format import ShardError, npy_header
from epg.data.shard_index import ShardIndex, index_of, read_index
from epg.errors import UserError
from epg.store.base import ObjectNotFound, Store
from epg.store.reading import PAUSE_SECONDS, READS, read_bytes

_PIECE = 1024 * 1024


class Loaded(NamedTuple):
    """Images side by side: image i begins at `starts[i]` of `buffer`; labels [N], ids [N]."""

    buffer: NDArray[np.uint8]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]


class Buffers:
    """Memory that is used again: page after page of new memory costs more than filling it."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return at least `size` bytes with any content."""
        with self._lock:
            for index, buffer in enumerate(self._free):
                if len(buffer) >= size:
                    return self._free.pop(index)
            if self._free:  # too small: this one makes room for the new one
                self._free.pop()
        return np.empty(size, np.uint8)

    def give(self, buffer: NDArray[np.uint8]) -> None:
        """Take memory back that nobody looks at any more."""
        with self._lock:
            self._free.append(buffer)


class SplitShards:
    """The shards of a split: their indices, and their images.

    Args:
        store: the run's store.
        manifest: the data set.
        split: `train` or `held-out`.
        cache: on a local disk, of this data set; None reads from the store alone.
    """

    def __init__(
        self, store: Store, manifest: Manifest, split: str, cache: ShardCache | None = None
    ) -> None:
        self._store, self._manifest, self._split = store, manifest, split
        self._cache = cache
        self.infos = manifest.shards(split)
        self.counts = np.array([info.num_samples for info in self.infos], np.int64)
        self._ids = np.concatenate([[0], np.cumsum(self.counts)])
        self._format = StoredFormat(
            manifest.image_size, manifest.channels, manifest.crop, manifest.encoding
        )
        self.shape = (manifest.image_size, manifest.image_size, manifest.channels)
        self.sample_bytes = int(np.prod(self.shape))
        self._header = npy_header(self.shape)
        self._indices: dict[int, ShardIndex] = {}
        self._locks = [threading.Lock() for _ in self.infos]

    def index(self, number: int) -> ShardIndex:
        """Return a shard's index. Raises `UserError` where neither it nor the shard is sound."""
        with self._locks[number]:
            if number not in self._indices:
                self._indices[number] = self._read_index(self.infos[number])
            return self._indices[number]

    def load(self, runs: Sequence[Run], buffers: Buffers) -> Loaded:
        """Return the images of some runs, one after the other.

        Raises:
            UserError: a shard is missing, altered, or not a shard.
        """
        raw = self._manifest.encoding == "raw"
        spans = [self._span(run) for run in runs]
        count = sum(run.rows for run in runs)
        target = buffers.take(sum(spans) if raw else count * self.sample_bytes)
        starts = np.empty(count, np.int64)
        done = at = 0
        for run, span in zip(runs, spans, strict=True):
            if raw:  # the pixels stay where they were read to
                offsets = self._read_run(run, target[at : at + span])
                starts[done : done + run.rows] = at + offsets + len(self._header)
                at += span
            else:
                scratch = buffers.take(span)
                offsets = self._read_run(run, scratch[:span])
                self._decode_run(run, scratch, offsets, target[done * self.sample_bytes :])
                buffers.give(scratch)
                starts[done : done + run.rows] = (
                    np.arange(done, done + run.rows) * self.sample_bytes
                )
            done += run.rows
        return Loaded(target, starts, self._labels(runs), self._numbers(runs))

    def _labels(self, runs: Sequence[Run]) -> NDArray[np.int64]:
        parts = [self.index(r.shard).labels[r.first : r.first + r.rows] for r in runs]
        return np.concatenate([*parts, np.empty(0, np.int64)])

    def _numbers(self, runs: Sequence[Run]) -> NDArray[np.int64]:
        starts = [(int(self._ids[r.shard]) + r.first, r.rows) for r in runs]
        parts = [np.arange(start, start + count) for start, count in starts]
        return np.concatenate([*parts, np.empty(0, np.int64)])

    def _span(self, run: Run) -> int:
        """Return how many bytes of its shard a run takes, from its first image to its last."""
        index, last = self.index(run.shard), run.first + run.rows - 1
        return int(index.offsets[last] + index.lengths[last] - index.offsets[run.first])

    def _read_run(self, run: Run, target: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Read a run's bytes, and return where each image begins. Raises `UserError`."""
        index, rows = self.index(run.shard), slice(run.first, run.first + run.rows)
        offset = int(index.offsets[run.first])
        view = target.data
        begins = index.offsets[rows] - offset
        for look in range(1, READS + 1):
            count = self._read(self.infos[run.shard], offset, view, look)
            wrong = self._first_wrong(run, view[:count], begins)
            if wrong is None:
                return begins
            time.sleep(PAUSE_SECONDS * look if look < READS else 0)  # perhaps the reading's fault
        raise UserError(
            f"shard {self._where(run.shard)} has {wrong}: it was cut or altered; put back a copy "
            "of it if there is one, or move it away and run the same command again to write it anew"
        )

    def _read(self, info: ShardInfo, offset: int, view: memoryview, look: int) -> int:
        """Fill `view` from a shard; at the first look, what lies in the cache will do."""
        if self._cache is None:
            return self._store.read_into(info.key, offset, view)
        return self._cache.read_into(self._store, info, offset, view, past=look > 1)

    def _first_wrong(self, run: Run, view: memoryview, begins: NDArray[np.int64]) -> str | None:
        """Return what is wrong with the first image that is not as it was written."""
        index, rows = self.index(run.shard), slice(run.first, run.first + run.rows)
        lengths, sums = index.lengths[rows].tolist(), index.checksums[rows].tolist()
        raw = self._manifest.encoding == "raw"
        for row, begin, length, expected in zip(
            range(run.rows), begins.tolist(), lengths, sums, strict=True
        ):
            content = view[begin : begin + length]
            if zlib_ng.crc32(content) == expected and len(content) == length:
                if raw and not self._is_raw(content):
                    raise self._odd_image(run, row, content)
                continue
            name = f"sample {index.name(run.first + row)}"
            if len(content) < length:
                size = self.infos[run.shard].size
                return f"ended within {name}, the manifest says {size} bytes"
            found = zlib_ng.crc32(content)
            return f"other bytes at {name}: CRC-32 {found:08x}, its index says {expected:08x}"
        return None

    def _is_raw(self, content: memoryview) -> bool:
        length = len(self._header) + self.sample_bytes
        return len(content) == length and content[: len(self._header)] == self._header

    def _odd_image(self, run: Run, row: int, content: memoryview) -> UserError:
        """Say what is wrong with an image that is as it was written, but none of ours."""
        name = self.index(run.shard).name(run.first + row)
        try:
            decode_image(content, name.rpartition(".")[2], self._format)
            error = f"a .{name.rpartition('.')[2]}, no .npy"
        except ShardError as refused:
            error = str(refused)
        return self._unusable(run.shard, f"at sample {name}: {error}")

    def _decode_run(
        self,
        run: Run,
        data: NDArray[np.uint8],
        begins: NDArray[np.int64],
        target: NDArray[np.uint8],
    ) -> None:
        """Decode the images of a run. Raises `UserError` for one that cannot be."""
        index, view = self.index(run.shard), data.data
        for row in range(run.rows):
            name = index.name(run.first + row)
            begin, length = int(begins[row]), int(index.lengths[run.first + row])
            try:
                pixels = decode_image(
                    view[begin : begin + length], name.rpartition(".")[2], self._format
                )
            except ShardError as error:
                raise self._unusable(run.shard, f"at sample {name}: {error}") from None
            place = target[row * self.sample_bytes : (row + 1) * self.sample_bytes]
            place.reshape(self.shape)[...] = pixels

    def _read_index(self, info: ShardInfo) -> ShardIndex:
        classes = len(self._manifest.classes)
        try:
            if info.index_sha256 and (data := self._index_bytes(info)) is not None:
                index = read_index(data, info.size, classes, self._split)
            else:
                index = index_of(read_verified(self._store, info), classes, self._split)
            if len(index.labels) != info.num_samples:
                raise ShardError(
                    f"{len(index.labels)} samples, the manifest says {info.num_samples}"
                )
        except ShardError as error:
            raise self._unusable(self.infos.index(info), str(error)) from None
        return index

    def _index_bytes(self, info: ShardInfo) -> bytes | None:
        """Return the index's content; None where it is gone or altered: the shard has it all."""
        for look in range(1, READS + 1):
            try:
                data = read_bytes(self._store, info.index_key, info.index_size)
            except ObjectNotFound:
                return None
            if hashlib.sha256(data).hexdigest() == info.index_sha256:
                return data
            time.sleep(PAUSE_SECONDS * look if look < READS else 0)
        return None

    def _unusable(self, number: int, why: str) -> UserError:
        return UserError(
            f"shard {self._where(number)} cannot be used: {why}; make the shards again with "
            "`epg shard`"
        )

    def _where(self, number: int) -> str:
        return f"{self._store.uri.rstrip('/')}/{self.infos[number].key}"


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

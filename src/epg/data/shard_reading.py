"""Images out of shards, by parts, each checked before it is used.

A part of a shard is read at once, and each image goes to where it is wanted: raw pixels of a local
shard by the same read, others by way of a buffer that is used again. There an image is held against
the CRC-32 of the index, and the index against the SHA-256 of the manifest; one that is not as it
was written is read again by itself. A shard without an index, as format 1 has them or because it
was lost, is read whole once, checked against the SHA-256 of the manifest, and its index made of it.
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
from epg.store.local import LocalStore
from epg.store.reading import PAUSE_SECONDS, READS, read_bytes

_PIECE = 1024 * 1024
#: Of one read of images: what a processor's cache holds; what makes up for a request.
_LOCAL_BYTES, _REMOTE_BYTES = 4 * 2**20, 2**24
_MOST_IMAGES = 256  # of one read: systems take 1024 targets


class _Wanted(NamedTuple):
    """An image to be read: its row in its shard, where its bytes lie there, where pixels go."""

    row: int
    begin: int
    end: int
    target: NDArray[np.uint8]


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
        self._raw = manifest.encoding == "raw"
        header = npy_header(self.shape)
        self._header_bytes, self._header_sum = len(header), zlib_ng.crc32(header)
        self._local = store if cache is None and isinstance(store, LocalStore) else None
        self._piece_bytes = _LOCAL_BYTES if self._local else _REMOTE_BYTES
        self._indices: dict[int, ShardIndex] = {}
        self._locks = [threading.Lock() for _ in self.infos]

    def index(self, number: int) -> ShardIndex:
        """Return a shard's index. Raises `UserError` where neither it nor the shard is sound."""
        found = self._indices.get(number)
        if found is None:
            with self._locks[number]:
                found = self._indices.get(number) or self._read_index(self.infos[number])
                self._indices[number] = found
        return found

    def labels(self, run: Run) -> NDArray[np.int64]:
        """Return the labels of a run [N]. Raises `UserError`."""
        return self.index(run.shard).labels[run.first : run.first + run.rows]

    def ids(self, run: Run) -> NDArray[np.int64]:
        """Return the position of a run's samples within the split [N]."""
        first = int(self._ids[run.shard]) + run.first
        return np.arange(first, first + run.rows)

    def read(self, run: Run, targets: Sequence[NDArray[np.uint8] | None], buffers: Buffers) -> None:
        """Read the images of a run, and put each into its target once it is known to be sound.

        Args:
            run: which images.
            targets: for each of them uint8 [H, W, C], contiguous; None leaves it out.
            buffers: memory to read into.

        Raises:
            UserError: the shard is missing, altered, or not a shard.
        """
        index, rows = self.index(run.shard), slice(run.first, run.first + run.rows)
        begins = index.offsets[rows].tolist()
        ends = (index.offsets[rows] + index.lengths[rows]).tolist()
        wanted = [
            _Wanted(run.first + place, begins[place], ends[place], target)
            for place, target in enumerate(targets)
            if target is not None
        ]
        while wanted:
            most = wanted[0].begin + self._piece_bytes
            count = max(1, sum(image.end <= most for image in wanted[:_MOST_IMAGES]))
            self._read_piece(run.shard, wanted[:count], buffers)
            wanted = wanted[count:]

    def _read_piece(self, shard: int, piece: Sequence[_Wanted], buffers: Buffers) -> None:
        """Read some images at once. If the shard was cut, what is missing shows afterwards."""
        checksums = self.index(shard).checksums
        begin, size = piece[0].begin, piece[-1].end - piece[0].begin
        buffer = buffers.take(size)
        view = buffer.data[:size]
        stored_bytes = self._header_bytes + self.sample_bytes
        if self._raw and all(image.end - image.begin == stored_bytes for image in piece):
            self._read_pixels(shard, piece, view)
            for image in piece:
                # After the header as it has to be: what has the sum has that header, too.
                if zlib_ng.crc32(image.target, self._header_sum) != checksums[image.row]:
                    self._decode(shard, image, self._content(shard, image.row))
        else:
            self._read(self.infos[shard], begin, view)
            for image in piece:
                content = view[image.begin - begin : image.end - begin]
                if zlib_ng.crc32(content) != checksums[image.row]:
                    content = self._content(shard, image.row)
                self._decode(shard, image, content)
        buffers.give(buffer)

    def _read_pixels(self, shard: int, piece: Sequence[_Wanted], view: memoryview) -> None:
        """Read pixels of raw images to their targets; `view` takes what lies between, or all."""
        info, begin = self.infos[shard], piece[0].begin
        if self._local is None:
            self._read(info, begin, view)
            for image in piece:
                pixels = view[image.begin + self._header_bytes - begin : image.end - begin]
                image.target.reshape(-1)[:] = np.frombuffer(pixels, np.uint8)
            return
        targets, at = [], begin
        for image in piece:
            targets += [view[: image.begin + self._header_bytes - at], image.target.data]
            at = image.end
        self._local.read_apart(info.key, begin, targets)

    def _decode(self, shard: int, image: _Wanted, content: memoryview) -> None:
        """Put the pixels of an image that is as it was written into its target."""
        name = self.index(shard).name(image.row)
        extension = name.rpartition(".")[2]
        try:
            if self._raw and extension != "npy":
                raise ShardError(f"a .{extension}, no .npy")
            decode_image(content, extension, self._format, image.target)
        except ShardError as error:
            raise self._unusable(shard, f"at sample {name}: {error}") from None

    def _content(self, shard: int, row: int) -> memoryview:
        """Read an image by itself. Raises `UserError` unless it is as it was written."""
        info, index = self.infos[shard], self.index(shard)
        content = memoryview(bytearray(index.lengths[row]))
        name, expected, wrong = f"sample {index.name(row)}", int(index.checksums[row]), ""
        for look in range(1, READS + 1):
            count = self._read(info, int(index.offsets[row]), content, look)
            found = zlib_ng.crc32(content[:count])
            if found == expected and count == len(content):
                return content
            wrong = f"other bytes at {name}: CRC-32 {found:08x}, its index says {expected:08x}"
            if count < len(content):
                wrong = f"ended within {name}, the manifest says {info.size} bytes"
            time.sleep(PAUSE_SECONDS * look if look < READS else 0)  # perhaps the reading's fault
        raise UserError(
            f"shard {self._where(shard)} has {wrong}: it was cut or altered; put back a copy "
            "of it if there is one, or move it away and run the same command again to write it anew"
        )

    def _read(self, info: ShardInfo, offset: int, view: memoryview, look: int = 1) -> int:
        """Fill `view` from a shard; at the first look, what lies in the cache will do."""
        if self._cache is None:
            return self._store.read_into(info.key, offset, view)
        return self._cache.read_into(self._store, info, offset, view, past=look > 1)

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

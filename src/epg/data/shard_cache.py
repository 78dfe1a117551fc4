"""Shards on a local disk, for machines that have a fast one: what a network brings, it brings once.

A shard lies there in blocks, each a file in a folder named by the shard's SHA-256, so that all runs
on the same data share them. Blocks of other data make room, oldest first; those of the data being
read never do: every image is read once an epoch in a new order, so whatever went would be wanted as
soon as what comes. What finds no room is read from the store, as without a cache. Nothing is
believed because it lies here: the reader holds each image against its CRC-32, and asks past the
cache when one is not as it was written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from epg.data.manifest import Manifest, ShardInfo
from epg.documents import is_sha256
from epg.errors import UserError
from epg.store.base import Store
from epg.store.files import explained, sweep_leftovers, write_atomically, write_pieces

FOLDER_VARIABLE, LIMIT_VARIABLE = "EPG_CACHE_DIR", "EPG_CACHE_GIB"
BLOCK_BYTES = 4 * 1024**2
_DEFAULT_GIB = "100"
_LOOKS = 64  # at the folder while it is filled: other processes fill it, too


class ShardCache:
    """Blocks of a data set's shards in a local folder.

    Args:
        folder: where they lie; it is made.
        most_bytes: how much may lie there, of all data together. Several processes that fill it
            at once may exceed it by a few hundredths each.
        manifest: the data set.

    Raises:
        UserError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, most_bytes: int, manifest: Manifest) -> None:
        self._folder, self._most = folder, most_bytes
        self._wanted = {s.sha256 for shards in manifest.splits.values() for s in shards}
        self._lock = threading.Lock()
        self._full, self._new = False, 0
        self._coming = 0  # bytes that have been promised room, and do not lie here yet
        with explained(folder, "use"):
            folder.mkdir(parents=True, exist_ok=True)
            sweep_leftovers(folder, below=True)
            self._used = sum(size for size, _, _ in self._folders())

    @classmethod
    def from_environment(cls, manifest: Manifest) -> ShardCache | None:
        """Return the cache that `EPG_CACHE_DIR` asks for, if it does. Raises `UserError`."""
        folder = os.environ.get(FOLDER_VARIABLE, "").strip()
        if not folder:
            return None
        text = os.environ.get(LIMIT_VARIABLE, "").strip() or _DEFAULT_GIB
        try:
            limit = float(text)
        except ValueError:
            limit = 0
        if not 0 < limit < 1e9:
            raise UserError(f"{LIMIT_VARIABLE} is {text!r}: a number of GiB, such as 200")
        return cls(Path(folder).expanduser(), int(limit * 1024**3), manifest)

    def read_into(
        self, store: Store, info: ShardInfo, offset: int, target: memoryview, *, past: bool = False
    ) -> int:
        """Fill `target` with bytes of a shard, as `Store.read_into` does.

        Args:
            store: that the shard lies in.
            info: the shard.
            offset: of the first byte.
            target: what is filled.
            past: read from the store, and replace what lies here.

        Raises:
            ObjectNotFound: it is not in the store, and not all that is wanted is here.
            UserError: the store cannot be used.
        """
        end = min(offset + len(target), info.size)
        blocks = range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        if past:
            self._forget(info, blocks)
        lacking = [number for number in blocks if not self._take(info, number, offset, target)]
        if not lacking:
            return max(0, end - offset)
        # One request, also where a block between two lacking ones is here.
        begin = lacking[0] * BLOCK_BYTES
        stop = min((lacking[-1] + 1) * BLOCK_BYTES, info.size)
        if not self._room(stop - begin):
            begin, stop = max(begin, offset), min(stop, end)
            count = store.read_into(info.key, begin, target[begin - offset : stop - offset])
            return end - offset if count == stop - begin else begin - offset + count
        data = memoryview(bytearray(stop - begin))
        try:
            count = store.read_into(info.key, begin, data)
            for number in lacking:
                self._keep(info, number, data[number * BLOCK_BYTES - begin : count])
        finally:
            with self._lock:
                self._coming -= stop - begin
        low, high = max(begin, offset), min(begin + count, end)
        if low < high:
            target[low - offset : high - offset] = data[low - begin : high - begin]
        return end - offset if begin + count == stop else max(0, high - offset)

    def _path(self, info: ShardInfo, number: int) -> Path:
        return self._folder / info.sha256 / f"{number:06d}"

    def _take(self, info: ShardInfo, number: int, offset: int, target: memoryview) -> bool:
        """Copy what `target` wants of a block; False where the block is not here, or not whole."""
        begin = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, info.size - begin)
        low, high = max(begin, offset), min(begin + size, offset + len(target))
        try:
            with self._path(info, number).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    return False
                file.seek(low - begin)
                return file.readinto(target[low - offset : high - offset]) == high - low
        except OSError:
            return False

    def _keep(self, info: ShardInfo, number: int, data: memoryview) -> None:
        """Keep a block, if all of it has come."""
        size = min(BLOCK_BYTES, info.size - number * BLOCK_BYTES)
        if len(data) < size:
            return
        try:
            write = write_pieces([bytes(data[:size])])
            write_atomically(self._path(info, number), write, durable=False)
        except OSError:  # the disk is full, or gone: training needs no cache
            self._full = True

    def _forget(self, info: ShardInfo, blocks: Iterable[int]) -> None:
        for number in blocks:
            with contextlib.suppress(OSError):
                self._path(info, number).unlink()

    def _room(self, count: int) -> bool:
        """Tell whether so many bytes may come to lie here, making room where it can be made."""
        with self._lock:
            if self._full:
                return False
            self._used, self._new = self._used + count, self._new + count
            self._coming += count
            if self._used > self._most or self._new > self._most // _LOOKS:
                self._new = 0
                try:
                    self._make_room()
                except OSError:  # the folder is gone, or nobody's any more
                    self._full = True
            if self._full:
                self._coming -= count
            return not self._full

    def _make_room(self) -> None:
        """Look at what lies here; remove other data, oldest first, as far as there is need."""
        folders = self._folders()
        self._used = self._coming + sum(size for size, _, _ in folders)
        for size, _, folder in sorted(folders, key=lambda found: found[1]):
            if self._used > self._most and folder.name not in self._wanted:
                shutil.rmtree(folder, ignore_errors=True)
                self._used -= 0 if folder.exists() else size  # it may be another user's
        self._full = self._used > self._most

    def _folders(self) -> list[tuple[int, float, Path]]:
        """Return bytes, time and path of each shard's folder; others are none of ours."""
        found = []
        for folder in self._folder.iterdir():
            if is_sha256(folder.name):
                with contextlib.suppress(OSError):  # another process may be removing it
                    size = sum(_size(path) for path in folder.iterdir())
                    found.append((size, folder.stat().st_mtime, folder))
        return found


def _size(path: Path) -> int:
    """Return a file's bytes; 0 where another process has renamed or removed it."""
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""Objects as files under one folder: the default store, on a laptop or a shared volume."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from epg.errors import UserError
from epg.store.base import ObjectExists, ObjectInfo, ObjectNotFound
from epg.store.files import (
    copy_into,
    explain_os_error,
    explained,
    sweep_leftovers,
    write_atomically,
    write_pieces,
)
from epg.store.keys import PART_PREFIX, check_key, check_prefix, join

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class LocalStore:
    """A `Store` whose objects are files: key `a/b.json` is the file `<root>/a/b.json`.

    Put is a write under a temporary name in the same folder, fsync and rename; `if_absent` is a
    hard link, which fails when the name is taken. Folders that become empty are removed.
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        """Use `root` (made at the first put); refuse it when it is a file."""
        self._root = root
        self._prefix = prefix
        self._swept = False
        self.uri = str(root / prefix) if prefix else str(root)
        if root.exists() and not root.is_dir():
            raise UserError(
                f"store {root}: it is a file; give the path of a folder (it may not exist yet)"
            )

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    def sub(self, prefix: str) -> LocalStore:
        """Return the same folder with `prefix/` before every key."""
        return LocalStore(self._root, join(self._prefix, check_key(prefix.rstrip("/"))))

    def path(self, key: str) -> Path:
        """Return where the object lies (or would lie) on the disk."""
        return self._root / join(self._prefix, check_key(key))

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write an object; with `if_absent`, raise `ObjectExists` when the key is taken."""
        path = self.path(key)
        with explained(path, "write"):
            self._sweep_once()
            if if_absent and path.exists():
                raise self._taken(key)
            if not write_atomically(path, write_pieces([data]), if_absent=if_absent):
                raise self._taken(key)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a local file, streamed."""
        target = self.path(key)
        with contextlib.ExitStack() as stack:
            with explained(path, "read"):
                source = stack.enter_context(path.open("rb"))
            with explained(target, "write"):
                self._sweep_once()
                write_atomically(target, lambda file: copy_into(source, file))

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        """Write an object while it is made."""
        target = self.path(key)
        with explained(target, "write"):
            self._sweep_once()
            write_atomically(target, write_pieces(pieces))

    def get_bytes(self, key: str) -> bytes:
        """Read a whole small object. Raises `ObjectNotFound`."""
        with self.open(key) as file, explained(self.path(key), "read"):
            return file.read()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Read a part; shorter where the object ends. Raises `ObjectNotFound`."""
        with self.open(key) as file, explained(self.path(key), "read"):
            file.seek(offset)
            return file.read(length)

    def read_into(self, key: str, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset` on; return how many bytes there were."""
        filled = 0
        while filled < len(target):
            count = self.read_apart(key, offset + filled, [target[filled:]])
            if not count:
                break
            filled += count
        return filled

    def read_apart(self, key: str, offset: int, targets: Sequence[memoryview]) -> int:
        """Fill one target after the other by one read, which may end early; return how far.

        Args:
            key: of the object.
            offset: of the first byte.
            targets: at most 1024.
        """
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY)  # a file object takes far longer
            try:
                return os.preadv(descriptor, targets, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._unreadable(error, key) from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object to a local file (atomically). Raises `ObjectNotFound`."""
        with self.open(key) as source, explained(path, "write"):
            write_atomically(path, lambda file: copy_into(source, file), durable=False)

    def open(self, key: str) -> BinaryIO:
        """Open an object for sequential reading; use as a context manager."""
        try:
            return self.path(key).open("rb")
        except OSError as error:
            raise self._unreadable(error, key) from error

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None when it does not exist."""
        path = self.path(key)
        try:
            status = path.stat()
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise explain_os_error(error, path, "look at") from error
        return None if path.is_dir() else status.st_size

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, sorted by key."""
        check_prefix(prefix)
        top = self._root / self._prefix
        # Only the folder that the prefix names needs to be walked, not the whole store.
        start = top / prefix.rpartition("/")[0]
        found: list[tuple[str, Path]] = []
        with explained(start, "list"):
            for folder, _, names in os.walk(start, onerror=_raise_unless_gone):
                for name in names:
                    path = Path(folder, name)
                    key = path.relative_to(top).as_posix()
                    if key.startswith(prefix) and not name.startswith(PART_PREFIX):
                        found.append((key, path))
        for key, path in sorted(found):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                status = path.stat()
                yield ObjectInfo(key, status.st_size, f"{status.st_mtime_ns}")

    def delete(self, key: str) -> None:
        """Remove an object, and folders that are empty then; missing ones are no error."""
        path = self.path(key)
        try:
            path.unlink()
        except OSError as error:
            if error.errno in _NOT_THERE:
                return
            raise explain_os_error(error, path, "delete") from error
        for folder in path.parents:
            if folder == self._root:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def clear(self, folder: str) -> None:
        """Remove every object under `folder/`, and what interrupted writes left there."""
        path = self.path(folder.rstrip("/"))
        for info in list(self.list(f"{folder.rstrip('/')}/")):
            self.delete(info.key)
        with explained(path, "delete"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def _sweep_once(self) -> None:
        if not self._swept:
            self._swept = True
            sweep_leftovers(self._root / self._prefix, below=True)

    def _unreadable(self, error: OSError, key: str) -> UserError:
        if error.errno in _NOT_THERE:
            return ObjectNotFound(f"no object {key} in {self.uri}")
        return explain_os_error(error, self.path(key), "read")

    def _taken(self, key: str) -> ObjectExists:
        return ObjectExists(f"object {key} exists already in {self.uri}")


def _raise_unless_gone(error: OSError) -> None:
    if error.errno not in _NOT_THERE:
        raise error

"""Files that are read in parts, wherever they lie: on a disk or in an object store.

An archive is a volume: one pass finds where its images are, and each is then read by itself, in
any order and by many threads. Nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from epg.data.sources.base import SourceNotFound
from epg.errors import UserError, printable
from epg.store import open_store
from epg.store.base import Store

_HELD_OUT = ("val", "valid", "validation", "held-out", "heldout", "dev")
_LAST_RESORT = ("test", "t10k")


class Volume(Protocol):
    """A file that is read in parts, by many threads at once.

    Attributes:
        name: its path below the source, for people and as a key.
        place: where it lies, for people.
        size: bytes.
        changed: another number whenever it was written again, as far as a look can tell.
        far: each read is a request over a network, so that reading on costs less than skipping.
    """

    name: str
    place: str
    size: int
    changed: int
    far: bool

    def read(self, offset: int, length: int) -> bytes:
        """Return a part, whole. Raises `UserError` where it cannot be read, or is shorter."""
        ...


class LocalVolume:
    """A file of a disk."""

    far = False

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self.name, self.place = printable(name), printable(str(path))
        try:
            status = path.stat()
        except OSError as error:
            raise _unreadable(self.place, error) from None
        self.size, self.changed = status.st_size, status.st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """Return a part, whole. Raises `UserError`."""
        try:
            # A descriptor for each read: a source may have more files than a process may open.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.pread(descriptor, length, offset)
                while len(found) < length and (
                    more := os.pread(descriptor, length - len(found), offset + len(found))
                ):
                    found += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unreadable(self.place, error) from None
        return _whole(self, found, offset, length)


class StoredVolume:
    """An object of a store."""

    far = True

    def __init__(self, store: Store, key: str, size: int, version: str) -> None:
        self._store, self._key = store, key
        self.name, self.place = key, f"{store.uri}/{key}"
        self.size = size
        digest = hashlib.sha256(version.encode()).digest()
        self.changed = int.from_bytes(digest[:7], "big") if version else -1

    def read(self, offset: int, length: int) -> bytes:
        """Return a part, whole. Raises `UserError`."""
        return _whole(self, self._store.get_range(self._key, offset, length), offset, length)


def _whole(volume: Volume, found: bytes, offset: int, length: int) -> bytes:
    if len(found) != length:
        raise UserError(
            f"{volume.place}: it ends at byte {offset + len(found):,}, where {volume.size:,} bytes "
            "were seen: it was cut or written anew meanwhile; give the same command again"
        )
    return found


def _unreadable(place: str, error: OSError) -> UserError:
    return UserError(f"{place} cannot be read: {error.strerror}")


def is_uri(location: str) -> bool:
    """Tell whether a location is that of an object store, not of a disk."""
    return "://" in location


def absolute_location(location: str) -> str:
    """Return a location as it must be written in a process with another folder."""
    return location if is_uri(location) else str(Path(location).expanduser().absolute())


def find_volumes(spec: str, location: str, wanted: Callable[[str], bool]) -> list[Volume]:
    """Return the files below a location that are wanted, in bytewise order of their names.

    Args:
        spec: the source, for people.
        location: a folder, a file, or the URI of a store.
        wanted: tells by its name whether a file is one of the source's.

    Raises:
        SourceNotFound: there is no such folder, or nothing under that URI.
        UserError: it cannot be read, or has no such file.
    """
    found = _stored(location, wanted) if is_uri(location) else _local(spec, location, wanted)
    return sorted(found, key=lambda volume: volume.name.encode("utf-8", "surrogateescape"))


def _stored(location: str, wanted: Callable[[str], bool]) -> list[Volume]:
    store = open_store(location)
    return [
        StoredVolume(store, info.key, info.size, info.version)
        for info in store.list()
        if wanted(info.key)
    ]


def _local(spec: str, location: str, wanted: Callable[[str], bool]) -> list[Volume]:
    root = Path(location).expanduser()
    if root.is_file():
        return [LocalVolume(root, root.name)] if wanted(root.name) else []
    if not root.is_dir():
        raise SourceNotFound(f"{spec}: no such folder")
    found: list[Volume] = []
    try:
        for folder, folders, names in os.walk(root, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                below = path.relative_to(root).as_posix()
                if not name.startswith(".") and wanted(below) and path.is_file():
                    found.append(LocalVolume(path, below))
    except OSError as error:
        raise _unreadable(printable(str(error.filename or root)), error) from None
    return found


def _raise(error: OSError) -> None:
    raise error


def split_of(name: str) -> str:
    """Tell by its path which split a file is of: `train`, `held-out`, `test`, or nothing."""
    for part in reversed(re.split(r"[/_.\-]", name.lower())):
        if part in ("train", "training"):
            return "train"
        if part in _HELD_OUT:
            return "held-out"
        if part in _LAST_RESORT:
            return "test"
    return ""


def split_volumes(volumes: Iterable[Volume]) -> tuple[dict[str, list[Volume]], dict[str, int]]:
    """Sort files by their split, and count those that stay out.

    Returns:
        `{"train": ..., "held-out": ...}` where names tell both, `{"all": ...}` otherwise. `test`
        is held out only where nothing else is.
    """
    by_split: dict[str, list[Volume]] = {}
    for volume in volumes:
        by_split.setdefault(split_of(volume.name), []).append(volume)
    train, held_out = by_split.get("train", []), by_split.get("held-out", [])
    test, other = by_split.get("test", []), by_split.get("", [])
    if train and (held_out or test):
        ignored = {}
        if held_out and test:
            ignored["file of a test split, since another one is held out"] = len(test)
        if other:
            ignored["file of no split"] = len(other)
        return {"train": train, "held-out": held_out or test}, ignored
    every = sorted([*train, *held_out, *test, *other], key=lambda volume: volume.name)
    return {"all": every}, {}

"""The object store as the rest of `epg` sees it: keys, bytes, and a few guarantees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from epg.errors import UserError


class ObjectNotFound(UserError):  # noqa: N818 - a state, no failure
    """The key does not exist. The message names the store and the key."""


class ObjectExists(UserError):  # noqa: N818 - likewise
    """`put_bytes(..., if_absent=True)` found the key taken."""


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object: key relative to the store's root, size in bytes.

    `version` is another one whenever the object was written again: an ETag, or a file's time.
    """

    key: str
    size: int
    version: str = field(default="", compare=False)


class Store(Protocol):
    """A place for objects under keys such as `stages/pretrain.json` (POSIX-like, relative).

    Every put is atomic: a reader sees the old object, the new one, or none, never a part. Every
    method raises `UserError` with one clear line when the place cannot be used (unreachable,
    wrong credentials, missing bucket, disk full).
    """

    uri: str

    def sub(self, prefix: str) -> Store:
        """Return the same place with `prefix/` before every key."""
        ...

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write an object; with `if_absent`, raise `ObjectExists` when the key is taken."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a local file, streamed."""
        ...

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        """Write an object while it is made: no copy lies on a disk, and few pieces in memory.

        What `pieces` raise ends it: the object is then what it was before. What dead processes
        have begun to write under this key goes away.
        """
        ...

    def get_bytes(self, key: str) -> bytes:
        """Read a whole small object. Raises `ObjectNotFound`."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset` on, which lies within it; fewer where it ends.

        Raises `ObjectNotFound`.
        """
        ...

    def read_into(self, key: str, offset: int, target: memoryview) -> int:
        """Fill `target` (bytes) from `offset` on, and return how many bytes there were.

        Fewer than it holds where the object ends. Raises `ObjectNotFound`.
        """
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object to a local file (atomically). Raises `ObjectNotFound`."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Open an object for sequential reading; use as a context manager."""
        ...

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None when it does not exist."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when it does not exist."""
        ...

    def clear(self, folder: str) -> None:
        """Remove every object under `folder/`, and what interrupted writes left there.

        For a single writer: an object that another process is just writing may go too.
        """
        ...

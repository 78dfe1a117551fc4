"""A store to which one writes only as long as nobody else has taken one's place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from epg.store.base import ObjectInfo, Store


class Guard(Protocol):
    """Knows whether a place is still ours, as `epg.store.lease.Lease` does."""

    def check(self) -> None:
        """Raise `UserError` when the place is known to be lost; costs nothing."""
        ...

    def confirm(self) -> None:
        """Raise `UserError` when the place is lost; may look."""
        ...


class Nobody:
    """Guards a place that nobody else can want."""

    def check(self) -> None:
        """It is ours."""

    def confirm(self) -> None:
        """It is ours."""


class HeldStore:
    """A `Store` that asks before each write, and reads as before; it guards what it was told to.

    Args:
        store: where objects lie; one that is held is asked for its own guard as well.
        guard: of the place.
    """

    def __init__(self, store: Store, guard: Guard) -> None:
        """Guard a store."""
        self._store, self._guard = store, guard
        self.uri = store.uri

    def check(self) -> None:
        """Raise `UserError` when the place is known to be lost; costs nothing."""
        self._guard.check()
        if isinstance(self._store, HeldStore):
            self._store.check()

    def confirm(self) -> None:
        """Raise `UserError` when the place is lost; may look."""
        self._guard.confirm()
        if isinstance(self._store, HeldStore):
            self._store.confirm()

    def __repr__(self) -> str:
        return f"HeldStore({self._store!r})"

    def sub(self, prefix: str) -> Store:
        """Return the same place with `prefix/` before every key, guarded as well."""
        return HeldStore(self._store.sub(prefix), self._guard)

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write an object, if the place is still ours."""
        self._guard.confirm()
        self._store.put_bytes(key, data, if_absent=if_absent)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a local file, if the place is still ours."""
        self._guard.confirm()
        self._store.put_file(key, path)

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        """Write an object while it is made, if the place is still ours then and at the end."""
        self._guard.confirm()
        self._store.put_pieces(key, self._while_held(pieces))

    def _while_held(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        yield from pieces
        self._guard.confirm()

    def get_bytes(self, key: str) -> bytes:
        """Read a whole small object. Raises `ObjectNotFound`."""
        return self._store.get_bytes(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Read a part; shorter where the object ends. Raises `ObjectNotFound`."""
        return self._store.get_range(key, offset, length)

    def read_into(self, key: str, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset` on; return how many bytes there were."""
        return self._store.read_into(key, offset, target)

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object to a local file (atomically). Raises `ObjectNotFound`."""
        self._store.get_file(key, path)

    def open(self, key: str) -> BinaryIO:
        """Open an object for sequential reading; use as a context manager."""
        return self._store.open(key)

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None when it does not exist."""
        return self._store.size(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, sorted by key."""
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        """Remove an object, if the place is still ours."""
        self._guard.confirm()
        self._store.delete(key)

    def clear(self, folder: str) -> None:
        """Remove every object under `folder/`, if the place is still ours."""
        self._guard.confirm()
        self._store.clear(folder)

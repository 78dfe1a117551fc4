"""Reading small objects that are to be believed: bounded, and once more before they are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from epg.documents import MAX_BYTES
from epg.store.base import Store
from epg.store.digest import file_sha256
from epg.store.files import explained

T = TypeVar("T")

_PIECE = 1 << 20  # bytes
READS: Final = 3  # of an object that does not look as it should: the fault may be the reading's
PAUSE_SECONDS = 0.2


def read_bytes(store: Store, key: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return a small object; of a larger one a byte more than the bound, which no reader takes.

    Raises:
        ObjectNotFound: there is none.
        UserError: the store cannot be used.
    """
    data = bytearray()
    with store.open(key) as stream, explained(Path(f"{store.uri}/{key}"), "read"):
        while piece := stream.read(min(_PIECE, max_bytes + 1 - len(data))):
            data += piece
    return bytes(data)


def read_document(
    store: Store, key: str, read: Callable[[bytes], T], max_bytes: int = MAX_BYTES
) -> T:
    """Read an object by `read`, up to three times while that raises `ValueError`.

    Raises:
        ValueError: as `read` raises it, at the last time.
        ObjectNotFound: there is none.
        UserError: the store cannot be used.
    """
    for look in range(1, READS):
        try:
            return read(read_bytes(store, key, max_bytes))
        except ValueError:
            time.sleep(PAUSE_SECONDS * look)
    return read(read_bytes(store, key, max_bytes))


def fetch_file(store: Store, key: str, path: Path, sha256: str) -> str:
    """Copy an object to a local file, up to three times while its digest is another one.

    Returns:
        The digest of what was read last, for the caller to judge.

    Raises:
        ObjectNotFound: there is none.
        UserError: the store or the file cannot be used.
    """
    for look in range(1, READS + 1):
        store.get_file(key, path)
        digest = file_sha256(path)
        if digest == sha256 or look == READS:
            return digest
        time.sleep(PAUSE_SECONDS * look)
    raise AssertionError("unreachable")

"""SHA-256 of what lies somewhere, read in pieces, as hexadecimal text."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20  # bytes


def file_sha256(path: Path) -> str:
    """Return the digest of a local file. Raises `OSError`."""
    with path.open("rb") as file:
        return stream_sha256(file)


def stream_sha256(stream: BinaryIO) -> str:
    """Return the digest of the rest of an open file or object."""
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()

"""Going through a file once, from its beginning: over its contents, or through them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from zlib_ng import zlib_ng

from epg.data.sources.volumes import Volume

_BLOCK = 16 << 20  # bytes of a read; an object store answers one request for it
_AHEAD = 8 << 10  # bytes that are read with a header: the next one may lie close by


class Cursor:
    """A place in a volume that only moves on.

    Args:
        volume: the file.
        through: read what is skipped, too: for the digest, or because a request for each small
            part would cost more than all the bytes between them.
        on_bytes: called with the number of bytes of each large read.
    """

    def __init__(
        self, volume: Volume, through: bool, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        self.volume, self.position = volume, 0
        self._through, self._on_bytes = through, on_bytes
        self._block = memoryview(b"")  # what was read and not yet passed
        self._digest = hashlib.sha256()

    @property
    def left(self) -> int:
        """Bytes between here and the end."""
        return self.volume.size - self.position

    def read(self, length: int) -> bytes:
        """Return the next bytes, fewer at the end. Raises `UserError`."""
        length = min(length, self.left)
        if not self._through:
            return self._near(length)
        pieces = []
        while length:
            pieces.append(bytes(self._pass(length)))
            length -= len(pieces[-1])
        return b"".join(pieces)

    def skip(self, length: int) -> None:
        """Move on. Raises `UserError`."""
        length = min(length, self.left)
        if not self._through:
            self.position += length
            self._block = self._block[length:]
        while self._through and length:
            length -= len(self._pass(length))

    def checksum(self, length: int) -> int:
        """Move on; return the CRC-32 of what was passed, −1 where it was not read."""
        length = min(length, self.left)
        if not self._through:
            self.skip(length)
            return -1
        found = 0
        while length:
            piece = self._pass(length)
            found = zlib_ng.crc32(piece, found)
            length -= len(piece)
        return found

    def sha256(self) -> str:
        """Go to the end and return the digest of the whole file. Raises `UserError`."""
        assert self._through
        self.skip(self.left)
        return self._digest.hexdigest()

    def _near(self, length: int) -> bytes:
        if len(self._block) < length:
            most = min(max(length, _AHEAD), self.left)
            self._block = memoryview(self.volume.read(self.position, most))
        found, self._block = bytes(self._block[:length]), self._block[length:]
        self.position += length
        return found

    def _pass(self, most: int) -> memoryview:
        """Return the next bytes of the block, at most so many."""
        if not self._block:
            data = self.volume.read(self.position, min(_BLOCK, self.left))
            self._digest.update(data)
            self._block = memoryview(data)
            if self._on_bytes is not None:
                self._on_bytes(len(data))
        found, self._block = self._block[:most], self._block[most:]
        self.position += len(found)
        return found

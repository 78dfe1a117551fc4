"""A local file on its way to the store."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

from epg.errors import UserError


class HashedFile:
    """A local file that knows its size and SHA-256; a full disk is one clear line."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> None:
        self._file = self.path.open("wb", buffering=1024 * 1024)

    def __exit__(self, *_: object) -> None:
        self._guarded(self._file.close)

    def write(self, data: bytes) -> None:
        """Append. Raises `UserError` when the disk is full."""
        self._guarded(lambda: self._file.write(data))
        self._digest.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """Digest of what was written so far."""
        return self._digest.hexdigest()

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"no space left for a shard in {self.path.parent.parent} after {self.size} "
                "bytes: free some, set TMPDIR to another disk, or lower data.samples_per_shard"
            ) from None

"""What an S3 store works with: a client for each process, and a stream over an object's pieces."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import cast

from minio import Minio

from epg.store.s3.http import RetryingPool
from epg.store.s3.settings import S3Settings


class Connection:
    """A client with its pool, made anew after a fork: sockets must not be shared.

    Attributes:
        bucket_seen: whether the bucket is known to exist.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._pid = -1

    def _renew(self) -> None:
        if self._pid != os.getpid():
            s = self._settings
            self._pool = RetryingPool(s.endpoint, s.first_deadline, s.deadline)
            self._client = Minio(
                endpoint=s.endpoint,
                access_key=s.access_key,
                secret_key=s.secret_key,
                session_token=s.session_token,
                secure=s.secure,
                region=s.region,  # saves a call that asks for it
                http_client=self._pool,
            )
            self.bucket_seen = False
            self._pid = os.getpid()

    @property
    def client(self) -> Minio:
        """The `minio` client of this process."""
        self._renew()
        return self._client

    @property
    def pool(self) -> RetryingPool:
        """Its connections."""
        self._renew()
        return self._pool


class PieceReader(io.RawIOBase):
    """A raw stream over pieces of bytes."""

    def __init__(self, first: bytes, pieces: Iterator[bytes]) -> None:
        self._rest = memoryview(first)
        self._pieces = pieces

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer from the pieces; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        target = memoryview(cast(bytearray, buffer)).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Close, and give the connection back when the end was not reached."""
        if not self.closed:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        super().close()

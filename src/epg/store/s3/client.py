"""Objects in a bucket of MinIO or any S3 server, through the `minio` client.

Only core calls are used (PUT, GET with ranges, HEAD, LIST v2, DELETE, multipart). The client's
`put_object` takes no condition: given `If-None-Match` it stores it as user metadata and
overwrites. The conditional put is therefore a presigned PUT with the header. SHA-256 is checked
by the callers, who know what an object should be.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from minio import Minio
from minio.error import S3Error, ServerError
from urllib3 import BaseHTTPResponse

from epg.errors import UserError
from epg.store.base import ObjectExists, ObjectInfo, ObjectNotFound
from epg.store.files import explained, write_atomically, write_pieces
from epg.store.keys import check_key, check_prefix, join
from epg.store.pace import Pace, received
from epg.store.s3.connection import Connection, PieceReader
from epg.store.s3.errors import FAILURES, NOT_S3, answer_error, code_of, explain
from epg.store.s3.http import is_transient
from epg.store.s3.settings import S3Settings
from epg.store.s3.upload import Upload

T = TypeVar("T")

_PIECE = 1 << 20  # bytes per read: the fastest size measured for this client
_PART = 16 << 20  # bytes per part of a big upload; memory is this times _PARALLEL
_PARALLEL = 2
_MAX_PARTS = 9_000  # S3 allows 10,000
_IDLE_FAILURES = 5  # broken reads in a row without a new byte
_CONFLICTS = 5  # tries of a conditional put that meets another one


class S3Store:
    """A `Store` whose objects lie under `<bucket>/<prefix>/`."""

    def __init__(self, settings: S3Settings, connection: Connection, prefix: str, uri: str) -> None:
        """Use `S3Store.connect` instead."""
        self._settings = settings
        self._connection = connection
        self._prefix = prefix
        self.uri = uri

    @classmethod
    def connect(cls, settings: S3Settings) -> S3Store:
        """Make a store; the server is first asked when an object is."""
        return cls(settings, Connection(settings), settings.prefix, settings.uri)

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def __reduce__(self) -> tuple[Callable[..., S3Store], tuple[S3Settings, str, str]]:
        return _unpickled, (self._settings, self._prefix, self.uri)

    @property
    def retries(self) -> int:
        """How many requests had to be sent again so far."""
        return self._connection.pool.retries

    def sub(self, prefix: str) -> S3Store:
        """Return the same bucket with `prefix/` before every key; connections are shared."""
        prefix = check_key(prefix.rstrip("/"))
        below = join(self._prefix, prefix)
        return S3Store(self._settings, self._connection, below, f"{self.uri}/{prefix}")

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write an object; with `if_absent`, raise `ObjectExists` when the key is taken."""
        name = self._name(key)
        if if_absent:
            self._put_if_absent(key, name, data)
            return
        self._call(
            f"write {key}",
            lambda client: client.put_object(
                self._settings.bucket, name, io.BytesIO(data), len(data), part_size=_part(len(data))
            ),
        )

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a local file, streamed; a big one in parts of 16 MiB or more."""
        name = self._name(key)
        with explained(path, "read"):
            size = path.stat().st_size

        def upload(client: Minio) -> None:
            client.fput_object(
                self._settings.bucket,
                name,
                str(path),
                part_size=_part(size),
                num_parallel_uploads=_PARALLEL,
            )

        def upload_again(client: Minio) -> None:
            try:
                upload(client)
            except FAILURES as error:
                # "Complete" was sent twice because the first answer got lost: parts are gone.
                if code_of(error) != "NoSuchUpload":
                    raise
                upload(client)

        with explained(path, "read"):
            self._call(f"write {key}", upload_again)

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        """Write an object while it is made, in parts of 16 MiB; two of them are in memory."""
        upload = Upload(self._connection, self._settings.bucket, self._name(key))
        try:
            upload.clear_up()
            upload.send(pieces)
        except FAILURES as error:
            raise explain(error, self._settings, f"write {key}") from error

    def get_bytes(self, key: str) -> bytes:
        """Read a whole small object. Raises `ObjectNotFound`."""
        return b"".join(self._pieces(key))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Read a part; shorter where the object ends. Raises `ObjectNotFound`."""
        with contextlib.suppress(_BeyondEndError):
            return b"".join(self._pieces(key, offset, length)) if length else b""
        return b""

    def read_into(self, key: str, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset` on; return how many bytes there were."""
        filled = 0
        with contextlib.suppress(_BeyondEndError):
            for piece in self._pieces(key, offset, len(target)) if target else ():
                target[filled : filled + len(piece)] = piece
                filled += len(piece)
        return filled

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object to a local file (atomically). Raises `ObjectNotFound`."""
        with explained(path, "write"):
            write_atomically(path, write_pieces(self._pieces(key)), durable=False)

    def open(self, key: str) -> BinaryIO:
        """Open an object for sequential reading; use as a context manager."""
        pieces = self._pieces(key)
        first = next(pieces, b"")  # so that a missing object is told here, not at the first read
        return cast(BinaryIO, io.BufferedReader(PieceReader(first, pieces), _PIECE))

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None when it does not exist."""
        name, bucket = self._name(key), self._settings.bucket

        def look(client: Minio) -> int | None:
            try:
                return client.stat_object(bucket, name).size
            except FAILURES as error:
                # HEAD has no body: a second question tells a missing bucket from a missing
                # object, and wrong credentials from a clock that is wrong.
                if code_of(error) == "NoSuchKey" and self._connection.bucket_seen and _of_s3(error):
                    return None
                for found in client.list_objects(bucket, prefix=name):
                    if found.object_name == name and code_of(error) == "NoSuchKey":
                        return found.size  # the 404 was another's, such as a gateway's
                    break
                if code_of(error) == "NoSuchKey":
                    return None
                raise

        return self._call(f"look at {key}", look)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, sorted by key."""
        check_prefix(prefix)
        root = f"{self._prefix}/" if self._prefix else ""

        def ask(client: Minio) -> list[ObjectInfo]:
            objects = client.list_objects(
                self._settings.bucket, prefix=f"{root}{prefix}", recursive=True
            )
            found: dict[str, ObjectInfo] = {}
            for item in objects:
                name = item.object_name or "/"
                if name.endswith("/"):  # folder markers
                    continue
                if name in found:
                    raise ServerError(f"{name} is listed twice", 502)  # pages without an end
                found[name] = ObjectInfo(
                    name.removeprefix(root), item.size or 0, (item.etag or "").strip('"')
                )
            return list(found.values())

        yield from sorted(self._call(f"list {prefix or '/'}", ask), key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when it does not exist."""
        name = self._name(key)
        self._call(
            f"delete {key}", lambda client: client.remove_object(self._settings.bucket, name)
        )

    def clear(self, folder: str) -> None:
        """Remove every object under `folder/`, and parts of what was never finished there."""
        for info in list(self.list(f"{folder.rstrip('/')}/")):
            self.delete(info.key)
        below = f"{self._name(folder.rstrip('/'))}/"
        with contextlib.suppress(*FAILURES):  # nobody sees them; not every key may ask
            Upload.clear_up_below(self._connection, self._settings.bucket, below)

    def _name(self, key: str) -> str:
        return check_key(join(self._prefix, check_key(key)))

    def _call(self, action: str, function: Callable[[Minio], T]) -> T:
        """Call the client, and turn what may fail into one line."""
        try:
            result = function(self._connection.client)
        except (*FAILURES, *NOT_S3) as error:
            raise explain(error, self._settings, action) from error
        self._connection.bucket_seen = True
        return result

    def _put_if_absent(self, key: str, name: str, data: bytes) -> None:
        bucket, pool = self._settings.bucket, self._connection.pool
        for attempt in range(1, _CONFLICTS + 1):
            try:
                url = self._connection.client.get_presigned_url(
                    "PUT", bucket, name, expires=timedelta(minutes=15)
                )
                response, sent = pool.send("PUT", url, body=data, headers={"If-None-Match": "*"})
                if response.status in (200, 204):
                    self._connection.bucket_seen = True
                    return
                if response.status not in (409, 412):
                    raise answer_error(response)
            except FAILURES as error:
                raise explain(error, self._settings, f"create {key}") from error
            there = self._read_back(key)
            # Sent twice: the object that is in the way may be the one that we wrote first.
            if sent > 1 and there == data:
                return
            if there is not None:
                raise ObjectExists(f"object {key} exists already in {self.uri}")
            time.sleep(0.05 * attempt)  # two conditional puts met (409): the other may have failed
        raise ObjectExists(f"object {key} is being created in {self.uri} by somebody else")

    def _read_back(self, key: str) -> bytes | None:
        try:
            return self.get_bytes(key)
        except ObjectNotFound:
            return None

    def _get(self, key: str, position: int, length: int, etag: str) -> BaseHTTPResponse:
        """Ask for an object from `position` on; with `etag`, only for the same object.

        `length` is of the part that is wanted, 0 for all that follows.
        """
        name, bucket = self._name(key), self._settings.bucket
        headers: dict[str, str | list[str] | tuple[str]] = {"If-Match": etag} if etag else {}
        try:
            return self._connection.client.get_object(
                bucket, name, offset=position, length=length, request_headers=headers
            )
        except FAILURES as error:
            if code_of(error) == "InvalidRange":
                raise _BeyondEndError(f"{self.uri}/{key} ends before byte {position}") from error
            if code_of(error) == "NoSuchKey":
                self._connection.bucket_seen = True
                raise ObjectNotFound(f"no object {key} in {self.uri}") from error
            raise explain(error, self._settings, f"read {key}") from error

    def _pieces(self, key: str, offset: int = 0, length: int = 0) -> Iterator[bytes]:
        """Yield the object in pieces of 1 MiB; goes on where a broken connection left off.

        With `length`, no more than so many bytes from `offset` on.
        """
        position, etag, total, failures = offset, "", None, 0
        pace = None
        while True:
            response = self._get(key, position, length and offset + length - position, etag)
            pace = pace or Pace(self._connection.pool.deadline)
            if (position or length) and response.status != 206:
                response.close()
                raise explain(ServerError("no ranges", 501), self._settings, f"go on reading {key}")
            if total is None:
                etag = response.headers.get("etag", "")
                total = position + int(response.headers.get("content-length", 0))
            try:
                for piece in received(response, pace):
                    position += len(piece)
                    failures = 0
                    yield piece
                self._connection.bucket_seen = True
                return
            except FAILURES as error:
                failures += 1
                if position == total:
                    return
                if failures > _IDLE_FAILURES or not is_transient(error):
                    raise explain(error, self._settings, f"read {key}") from error
                with pace:
                    time.sleep(0.1 * 2**failures)
                if pace.left < 0:
                    raise explain(error, self._settings, f"read {key}") from error
            finally:
                response.close()
                response.release_conn()


class _BeyondEndError(UserError):
    """An object ends before the byte that was asked for."""


def _of_s3(error: Exception) -> bool:
    """Tell whether an answer without a body is an S3 server's: all of them number their answers."""
    return isinstance(error, S3Error) and "x-amz-request-id" in error.response.headers


def _part(size: int) -> int:
    """Bytes per part: 16 MiB, more where that would make too many parts."""
    return max(_PART, (size // _MAX_PARTS // _PIECE + 1) * _PIECE)


def _unpickled(settings: S3Settings, prefix: str, uri: str) -> S3Store:
    return S3Store(settings, Connection(settings), prefix, uri)

"""One object in parts, sent while it is made: nothing is visible before all of it is there.

Parts go through presigned URLs: the client's own upload reads ahead from a file, hashes every byte
twice, and knows no way to take up what another process left. Each part carries its MD5, which the
server checks; the whole is checked by the server's tag of all parts, and by its size.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from minio import Minio
from minio.error import ServerError
from urllib3 import BaseHTTPResponse

from epg.store.s3.connection import Connection
from epg.store.s3.errors import FAILURES, answer_error, code_of

PART_BYTES = 16 << 20  # two parts are in memory: one is filled, one is sent
_LARGEST_PARTS = 9_000  # S3 allows 10,000 parts
_EXPIRES = timedelta(hours=1)
_UPLOAD_ID = re.compile(rb"<UploadId>\s*([^<\s]+)\s*</UploadId>")


@dataclass
class Upload:
    """An unfinished object.

    Args:
        connection: to the server.
        bucket: that the object is to lie in.
        name: of the object within the bucket.
    """

    connection: Connection
    bucket: str
    name: str
    size: int = 0
    _id: str = ""
    _parts: list[bytes] = field(default_factory=list)  # MD5 of each

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send all pieces as one object.

        Whatever ends this early, an error of the pieces included, leaves no part behind.

        Raises:
            minio.error.MinioException, urllib3.exceptions.HTTPError: the server does not take it.
        """
        try:
            with ThreadPoolExecutor(1, "upload") as pool:
                rest = self._send_parts(pieces, pool)
            if self._id:
                self._complete()
            else:
                client = self.connection.client
                client.put_object(self.bucket, self.name, io.BytesIO(rest), len(rest))
        except BaseException:
            if self._id:
                self._abort(self._id)
            raise

    def _send_parts(self, pieces: Iterable[bytes], pool: ThreadPoolExecutor) -> bytearray:
        """Send a part while the next one is filled; return all where it is less than a part."""
        filled = bytearray()
        sending: Future[None] | None = None
        for piece in pieces:
            filled += piece
            if len(filled) >= self._part_bytes():
                if sending is not None:
                    sending.result()
                sending = pool.submit(self._send_part, filled)
                filled = bytearray()
        if sending is None:
            return filled
        sending.result()
        if filled:
            self._send_part(filled)
        return bytearray()

    def _part_bytes(self) -> int:
        """Bytes of a part: more of an object that would have too many."""
        return PART_BYTES << (len(self._parts) * 16 // _LARGEST_PARTS)

    def _send_part(self, part: bytearray) -> None:
        if not self._id:
            self._begin()
        digest = hashlib.md5(part, usedforsecurity=False).digest()
        number = len(self._parts) + 1
        query = {"uploadId": self._id, "partNumber": str(number)}
        headers = {"Content-MD5": base64.b64encode(digest).decode("ascii")}
        self._ask("PUT", query, part, headers)
        self._parts.append(digest)
        self.size += len(part)

    def _begin(self) -> None:
        answer = self._ask("POST", {"uploads": ""}, b"")
        found = _UPLOAD_ID.search(answer.data)
        if found is None:
            raise ServerError("no upload begun", 502)
        self._id = html.unescape(found[1].decode("utf-8", "replace"))

    def _complete(self) -> None:
        # The tag of a part is its MD5, as we know it: what is another's is refused here.
        listed = "".join(
            f'<Part><PartNumber>{number}</PartNumber><ETag>"{digest.hex()}"</ETag></Part>'
            for number, digest in enumerate(self._parts, 1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode("ascii")
        try:
            answer = self._ask("POST", {"uploadId": self._id}, body)
            if b"<Error" in answer.data:  # told after a "200" that kept the connection alive
                raise answer_error(answer)
        except FAILURES as error:
            # It was sent twice because the first answer got lost: what is there decides.
            if code_of(error) != "NoSuchUpload":
                raise
        found = self.connection.client.stat_object(self.bucket, self.name)
        digest = hashlib.md5(b"".join(self._parts), usedforsecurity=False).hexdigest()
        if found.size != self.size or not _same_tag(found.etag, f"{digest}-{len(self._parts)}"):
            raise ServerError(f"{self.name} is not what was sent", 502)
        self._id = ""

    def _abort(self, upload_id: str) -> None:
        try:
            self._ask("DELETE", {"uploadId": upload_id}, None)
        except FAILURES:  # what stopped the upload is told; the next one clears up
            return

    def clear_up(self) -> None:
        """End what dead processes have begun for this object.

        Raises:
            minio.error.MinioException, urllib3.exceptions.HTTPError: the server cannot be asked.
        """
        client: Minio = self.connection.client
        listed = client._list_multipart_uploads(self.bucket, prefix=self.name)
        for found in listed.uploads:
            if found.object_name == self.name and found.upload_id:
                self._abort(found.upload_id)

    @classmethod
    def clear_up_below(cls, connection: Connection, bucket: str, folder: str) -> None:
        """End what dead processes have begun for any object whose name starts with `folder`.

        Raises:
            minio.error.MinioException, urllib3.exceptions.HTTPError: the server cannot be asked.
        """
        for prefix in (folder, ""):  # MinIO lists by the whole name of an object, or all
            listed = connection.client._list_multipart_uploads(bucket, prefix=prefix)
            for found in listed.uploads:
                name = found.object_name or ""
                if name.startswith(folder) and found.upload_id:
                    cls(connection, bucket, name)._abort(found.upload_id)

    def _ask(
        self,
        method: str,
        query: dict[str, str],
        body: bytes | bytearray | None,
        headers: dict[str, str] | None = None,
    ) -> BaseHTTPResponse:
        url = self.connection.client.get_presigned_url(
            method, self.bucket, self.name, expires=_EXPIRES, extra_query_params={**query}
        )
        answer, _ = self.connection.pool.send(method, url, body=body, headers=headers or {})
        if answer.status not in (200, 204):
            raise answer_error(answer)
        return answer


def _same_tag(tag: str | None, expected: str) -> bool:
    """Tell whether a tag is the expected one, or of a server that makes its tags otherwise."""
    found = (tag or "").strip('"')
    return found == expected or not re.fullmatch(r"[0-9a-f]{32}-\d+", found)

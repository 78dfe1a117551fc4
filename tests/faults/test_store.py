"""What goes wrong with stores: each time one line that says where, what and what to do."""

from __future__ import annotations

import errno
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from epg.errors import UserError
from epg.store import ObjectExists, Store, files, open_store
from epg.store.local import LocalStore
from epg.store.s3 import client
from tests.s3_server import S3Server, free_port, minio_server, moto_server

SECRET = "do-not-show-this-secret"
Answer = tuple[int, bytes, dict[str, str]]


def one_line(error: UserError) -> str:
    message = str(error)
    assert "\n" not in message
    assert SECRET not in message
    assert "X-Amz" not in message
    return message


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPG_S3_ACCESS_KEY", "epg-test-key")
    monkeypatch.setenv("EPG_S3_SECRET_KEY", SECRET)
    monkeypatch.setenv("EPG_S3_DEADLINE", "0.5")


class Scripted(http.server.ThreadingHTTPServer):
    """An S3 endpoint that answers as it is told, and notes what it was asked."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str, str, int], Answer | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the script."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def _handle(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.lock:
            self.server.asked.append(self.command)
            self.server.ranges.append(self.headers.get("range", ""))
            answer = self.server.answer(self.command, self.path, len(self.server.asked))
        if answer is None:  # hang up without a word
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, body, headers = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


XML = {"Content-Type": "application/xml"}


def s3_error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@pytest.fixture
def scripted(keys: None) -> Iterator[Callable[..., tuple[Store, Scripted]]]:
    servers = []

    def start(answer: Callable[[str, str, int], Answer | None]) -> tuple[Store, Scripted]:
        server = Scripted(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return open_store(f"minio://127.0.0.1:{server.server_port}/models/run"), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# --- S3: places that cannot be used ---------------------------------------------------------


def test_unreachable_endpoint(keys: None) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    store = open_store(f"minio://{endpoint}/models/run")
    for call, action in (
        (lambda: store.put_bytes("a", b"1"), "write a"),
        (lambda: store.put_bytes("a", b"1", if_absent=True), "create a"),
        (lambda: store.get_bytes("a"), "read a"),
        (lambda: store.size("a"), "look at a"),
        (lambda: list(store.list("a")), "list a"),
        (lambda: store.delete("a"), "delete a"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert one_line(caught.value) == (
            f"S3 at http://{endpoint}, bucket 'models': cannot {action}: no connection: check that "
            "the server runs and that the endpoint (EPG_S3_ENDPOINT or the store URI) is right"
        )


def test_unknown_host(keys: None) -> None:
    with pytest.raises(UserError, match="the host name is unknown: check the endpoint"):
        open_store("minio://no-such-host.invalid:9000/models").get_bytes("a")


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["moto", "minio"])
def test_missing_bucket(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with moto_server() if kind == "moto" else minio_server() as server:
        server.set_environment(monkeypatch)
        store = open_store("s3://not-made/run")
        (tmp_path / "f").write_bytes(b"1")
        for call in (
            lambda: store.put_bytes("a", b"1"),
            lambda: store.put_bytes("a", b"1", if_absent=True),
            lambda: store.put_file("a", tmp_path / "f"),
            lambda: store.get_bytes("a"),
            lambda: store.size("a"),
            lambda: list(store.list()),
            lambda: store.delete("a"),
        ):
            with pytest.raises(UserError, match="the bucket does not exist: create it") as caught:
                call()
            assert f"http://{server.endpoint}, bucket 'not-made'" in one_line(caught.value)


@pytest.mark.s3
def test_wrong_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    with minio_server() as server:
        server.make_bucket("models")
        server.set_environment(monkeypatch)
        wrong_secret = S3Server(server.endpoint, server.access_key, SECRET)
        wrong_key = S3Server(server.endpoint, "nobody", SECRET)
        for who, reason in ((wrong_secret, "SignatureDoesNotMatch"), (wrong_key, "Invalid")):
            who.set_environment(monkeypatch)
            store = open_store("s3://models/run")
            assert isinstance(store, client.S3Store)
            for call in (
                lambda store=store: store.put_bytes("a", b"1"),
                lambda store=store: store.put_bytes("a", b"1", if_absent=True),
                lambda store=store: store.get_bytes("a"),
                lambda store=store: store.size("a"),
                lambda store=store: list(store.list()),
            ):
                begun = time.monotonic()
                with pytest.raises(UserError, match="wrong credentials") as caught:
                    call()
                assert reason in one_line(caught.value)
                assert store.retries == 0, f"no retry ({time.monotonic() - begun:.1f} s)"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "InvalidAccessKeyId", r"wrong credentials \(unknown access key\)"),
        (403, "SignatureDoesNotMatch", "the secret key does not match"),
        (403, "AccessDenied", "access denied"),
        (403, "SomethingNew", r"access denied.*\(403 SomethingNew\)"),
        (403, "RequestTimeTooSkewed", r"clock is wrong by about \d+ s: set it"),
        (404, "NoSuchBucket", "the bucket does not exist"),
        (400, "AuthorizationHeaderMalformed", "set EPG_S3_REGION"),
        (301, "PermanentRedirect", "another region"),
        (501, "NotImplemented", "the server cannot do this"),
        (507, "XMinioStorageFull", "the server's disk is full"),
        (418, "Teapot", "the server answers 418 Teapot"),
    ],
)
def test_refusals_are_final(scripted: Any, status: int, code: str, message: str) -> None:
    store, server = scripted(lambda *_: (status, s3_error(code), XML))
    with pytest.raises(UserError, match=message) as caught:
        store.put_bytes("a", b"1")
    assert "bucket 'models': cannot write a: " in one_line(caught.value)
    assert server.asked == ["PUT"]
    assert store.retries == 0


@pytest.mark.parametrize("status", [200, 404, 400])
def test_not_an_s3_server(scripted: Any, status: int) -> None:
    store, _ = scripted(lambda *_: (status, b"<html>hello</html>", {"Content-Type": "text/html"}))
    with pytest.raises(UserError) as caught:
        list(store.list())
    assert "cannot list /: " in one_line(caught.value)


# --- S3: what passes ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "429", "hang up"])
def test_transient_faults_are_tried_again(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("EPG_S3_DEADLINE", "60")

    def answer(method: str, path: str, count: int) -> Answer | None:
        if count <= 2:
            return None if fault == "hang up" else (int(fault), s3_error("SlowDown"), XML)
        return 200, b"content", {"ETag": '"1"'}

    store, server = scripted(answer)
    assert store.get_bytes("a") == b"content"
    assert server.asked == ["GET"] * 3
    assert store.retries == 2


def test_server_that_stays_away_ends_at_the_deadline(scripted: Any) -> None:
    store, server = scripted(lambda *_: (503, s3_error("SlowDown"), XML))
    with pytest.raises(UserError, match="the server answers 503 SlowDown: look at it") as caught:
        store.put_bytes("a", b"1")
    one_line(caught.value)
    assert 1 <= len(server.asked) < 50


def test_connection_that_breaks_in_the_middle_is_resumed(scripted: Any) -> None:
    data = os.urandom(3_000_000)

    def answer(method: str, path: str, count: int) -> Answer:
        if count == 1:  # promises all and hangs up after 2.5 MB, more than two pieces
            broken = {"Content-Length": str(len(data)), "ETag": '"x"', "Connection": "close"}
            return 200, data[:2_500_000], broken
        first = int(server.ranges[-1].removeprefix("bytes=").removesuffix("-"))
        return 206, data[first:], {"ETag": '"x"'}

    store, server = scripted(answer)
    assert store.get_bytes("a") == data
    assert server.ranges == ["", "bytes=2500000-"]


def test_server_that_ignores_ranges_is_not_trusted(scripted: Any) -> None:
    data = os.urandom(3_000_000)

    def answer(method: str, path: str, count: int) -> Answer:
        cut = len(data) if count > 1 else 2_500_000
        broken = {"Content-Length": str(len(data)), "ETag": '"x"', "Connection": "close"}
        return 200, data[:cut], broken

    store, _ = scripted(answer)
    with pytest.raises(UserError, match="cannot go on reading a"):
        store.get_bytes("a")


def test_conditional_put_that_succeeded_unheard(scripted: Any) -> None:
    """The first try wrote the object, its answer was lost; the second meets our own object."""

    def answer(method: str, path: str, count: int) -> Answer | None:
        if method == "PUT":
            return None if count == 1 else (412, s3_error("PreconditionFailed"), XML)
        return 200, b"mine", {"ETag": '"1"'}

    store, server = scripted(answer)
    store.put_bytes("lock", b"mine", if_absent=True)
    assert server.asked == ["PUT", "PUT", "GET"]
    server.asked.clear()
    with pytest.raises(ObjectExists):
        store.put_bytes("lock", b"yours", if_absent=True)


def test_conditional_put_refused_at_once_is_never_ours(scripted: Any) -> None:
    def answer(method: str, path: str, count: int) -> Answer:
        if method == "PUT":
            return 412, s3_error("PreconditionFailed"), XML
        return 200, b"the same bytes", {"ETag": '"1"'}

    store, _ = scripted(answer)
    with pytest.raises(ObjectExists):
        store.put_bytes("lock", b"the same bytes", if_absent=True)


def test_upload_that_broke_in_a_part(
    scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part meets a 500 and is sent again; then all are completed."""
    (tmp_path / "big").write_bytes(b"x" * (client._PART + 10))
    failed: list[str] = []

    def answer(method: str, path: str, count: int) -> Answer:
        if method == "POST" and "uploads=" in path:
            body = b"<InitiateMultipartUploadResult><UploadId>7</UploadId>"
            return 200, body + b"</InitiateMultipartUploadResult>", XML
        if method == "PUT" and "partNumber=2" in path and not failed:
            failed.append(path)
            return 500, s3_error("InternalError"), XML
        if method == "POST":
            body = b"<CompleteMultipartUploadResult><Bucket>models</Bucket><Key>k</Key>"
            return 200, body + b"<ETag>e</ETag></CompleteMultipartUploadResult>", XML
        return 200, b"", {"ETag": '"part"'}

    monkeypatch.setenv("EPG_S3_DEADLINE", "60")
    store, server = scripted(answer)
    store.put_file("big", tmp_path / "big")
    assert sorted(server.asked) == ["POST", "POST", "PUT", "PUT", "PUT"]
    assert failed


def test_upload_given_up_is_aborted(scripted: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (client._PART + 10))

    def answer(method: str, path: str, count: int) -> Answer:
        if method == "POST":
            body = b"<InitiateMultipartUploadResult><UploadId>7</UploadId>"
            return 200, body + b"</InitiateMultipartUploadResult>", XML
        if method == "DELETE":
            return 204, b"", {}
        return 507, s3_error("XMinioStorageFull"), XML

    store, server = scripted(answer)
    with pytest.raises(UserError, match="the server's disk is full"):
        store.put_file("big", tmp_path / "big")
    assert server.asked[-1] == "DELETE"


def test_presigned_urls_are_not_logged(scripted: Any, caplog: pytest.LogCaptureFixture) -> None:
    store, _ = scripted(lambda *_: (200, b"", {}))
    with caplog.at_level("DEBUG"):
        store.put_bytes("lock", b"1", if_absent=True)
    assert "X-Amz-Signature" not in caplog.text


# --- Local files ----------------------------------------------------------------------------


class FullDisk:
    """A file on which the disk is full after some bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._file.write(data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    create = files._create_part

    def full(folder: Path) -> tuple[Any, Path]:
        file, part = create(folder)
        return FullDisk(file), part

    monkeypatch.setattr(files, "_create_part", full)


def test_disk_full(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = LocalStore(tmp_path / "runs")
    store.put_bytes("a", b"earlier")
    (tmp_path / "source").write_bytes(b"12345")
    request.getfixturevalue("full_disk")
    for call in (
        lambda: store.put_bytes("a", b"12345"),
        lambda: store.put_bytes("b", b"12345", if_absent=True),
        lambda: store.put_file("c", tmp_path / "source"),
        lambda: store.get_file("a", tmp_path / "copy"),
    ):
        with pytest.raises(UserError, match="no space left on the disk") as caught:
            call()
        assert "what was there before is intact; free some space" in one_line(caught.value)
    assert {p.name for p in tmp_path.rglob("*")} == {"runs", "a", "source"}
    assert store.get_bytes("a") == b"earlier"


def test_disk_full_at_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        LocalStore(tmp_path).put_bytes("a", b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission: change its owner or mode"):
        LocalStore(tmp_path).put_bytes("a", b"1")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "no permission"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EDQUOT, "no space left"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.EIO, "check the disk"),
    ],
)
def test_errors_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "open", fail)
    with pytest.raises(UserError, match=message) as caught:
        LocalStore(tmp_path).put_bytes("a", b"1")
    assert f"cannot write {tmp_path}/a: " in one_line(caught.value)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"runs: it is a file; give the path of a folder"):
        open_store(str(tmp_path / "runs"))
    store = LocalStore(tmp_path)
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        store.put_bytes("runs/a", b"1")
    assert store.size("runs/a") is None
    assert list(store.list("runs/")) == []


def test_a_folder_where_an_object_is_needed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_bytes("a/b", b"1")
    with pytest.raises(UserError, match="a folder stands where a file is needed"):
        store.put_bytes("a", b"1")
    assert store.get_bytes("a/b") == b"1"

"""The two programs that run inside the pods of k8s/."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import importlib.util
import io
import json
import threading
from pathlib import Path

import pytest
from Crypto.Cipher import AES

from tests.s3_server import minio_server, moto_server

SCRIPTS = Path(__file__).parents[3] / "k8s" / "scripts"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    secrets: dict[str, dict]
    refuse = False

    def answer(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "Bearer token"
        name = self.path.removeprefix("/api/v1/namespaces/epg/secrets/")
        if self.refuse:
            self.answer(403, {})
        elif name in self.secrets:
            self.answer(200, self.secrets[name])
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        assert self.path == "/api/v1/namespaces/epg/secrets"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.secrets[body["metadata"]["name"]] = body
        self.answer(201, body)

    def log_message(self, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def api():
    handler = type("Handler", (Api,), {"secrets": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    yield handler, connection
    connection.close()
    server.shutdown()
    server.server_close()


def test_secret_is_made_once_and_kept(api):
    handler, connection = api
    ensure = script("credentials").ensure
    keys = "accesskey=?20 secretkey=?40"
    said = ensure(connection, "token", "epg", "epg-s3", keys)
    assert said == "secret epg/epg-s3 created"
    first = json.dumps(handler.secrets)
    data = handler.secrets["epg-s3"]["data"]
    assert len(base64.b64decode(data["secretkey"])) == 40
    assert len(base64.b64decode(data["accesskey"])) == 20
    assert "stays as it is" in ensure(connection, "token", "epg", "epg-s3", keys)
    assert json.dumps(handler.secrets) == first


def test_given_secret_without_a_key_and_refusal_say_so(api):
    handler, connection = api
    ensure = script("credentials").ensure
    handler.secrets["epg-s3"] = {"data": {"accesskey": "eA=="}}
    with pytest.raises(SystemExit, match="lacks secretkey"):
        ensure(connection, "token", "epg", "epg-s3", "accesskey=?20 secretkey=?40")
    handler.refuse = True
    with pytest.raises(SystemExit, match="403"):
        ensure(connection, "token", "epg", "epg-s3", "accesskey=?20")


@pytest.mark.s3
def test_bucket_is_made_once():
    ensure = script("bucket").ensure
    with moto_server() as server:
        host, _, port = server.endpoint.partition(":")
        keys = ("us-east-1", server.access_key, server.secret_key)
        assert ensure(host, int(port), "epg-new", *keys) == "bucket epg-new created"
        assert ensure(host, int(port), "epg-new", *keys) == "bucket epg-new is there"
    assert ensure(host, int(port), "epg-new", *keys) is None


def test_what_is_sealed_opens_as_minio_opens_it():
    """Salt, method 2 (PBKDF2 and AES-256-GCM), nonce, one last piece."""
    password, data = "administrator's", b'{"secretKey": "of the user"}'
    found = script("bucket").sealed(data, password)
    salt, method, nonce, piece = found[:32], found[32], found[33:41], found[41:]
    assert method == 2
    assert len(piece) == len(data) + 16
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 8192, 32)
    header = AES.new(key, AES.MODE_GCM, nonce + bytes(4)).digest()
    opening = AES.new(key, AES.MODE_GCM, nonce + b"\1\0\0\0").update(b"\x80" + header)
    assert opening.decrypt_and_verify(piece[:-16], piece[-16:]) == data


class Admin(http.server.BaseHTTPRequestHandler):
    """Answers as MinIO's administration, and notes what it was asked."""

    asked: list[tuple[str, bytes]]
    status = 200

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert "Credential=root/" in self.headers["Authorization"]
        self.asked.append((self.path, body))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Be quiet."""


@pytest.mark.parametrize("status", [200, 403, 503])
def test_the_user_of_the_runs_may_use_one_bucket(status):
    asked: list[tuple[str, bytes]] = []
    handler = type("Handler", (Admin,), {"asked": asked, "status": status})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    place = ("127.0.0.1", server.server_port, "epg", "us-east-1")
    bucket = script("bucket")
    try:
        if status == 403:
            with pytest.raises(SystemExit, match="add-canned-policy was answered with 403"):
                bucket.ensure_user(*place, ("root", "s" * 40), ("user", "k" * 40))
            return
        said = bucket.ensure_user(*place, ("root", "s" * 40), ("user", "k" * 40))
    finally:
        server.shutdown()
        server.server_close()
    if status == 503:
        assert said is None
        return
    assert said == "its user may use bucket epg alone"
    calls = [path.removeprefix("/minio/admin/v3/") for path, _ in asked]
    assert calls == [
        "add-canned-policy?name=epg-runs",
        "add-user?accessKey=user",
        "set-user-or-group-policy?isGroup=false&policyName=epg-runs&userOrGroup=user",
    ]
    assert b"k" * 40 not in asked[1][1]
    rules = json.loads(asked[0][1])["Statement"]
    assert [rule["Resource"] for rule in rules] == [["arn:aws:s3:::epg"], ["arn:aws:s3:::epg/*"]]
    assert all(":*" not in action for rule in rules for action in rule["Action"])


@pytest.mark.s3
def test_the_user_of_a_real_minio_sees_one_bucket():
    from minio import Minio
    from minio.error import S3Error

    bucket = script("bucket")
    with minio_server() as server:
        for name in ("epg", "other"):
            server.make_bucket(name)
        host, _, port = server.endpoint.partition(":")
        admin, user = (server.access_key, server.secret_key), ("runs-user", "u" * 40)
        for _ in range(2):  # again at every start
            bucket.ensure_user(host, int(port), "epg", "us-east-1", admin, user)
        client = Minio(
            endpoint=server.endpoint,
            access_key=user[0],
            secret_key=user[1],
            secure=False,
            region="us-east-1",
        )
        client.put_object("epg", "a", io.BytesIO(b"1"), 1)
        assert [found.object_name for found in client.list_objects("epg")] == ["a"]
        with pytest.raises(S3Error, match="AccessDenied"):
            client.put_object("other", "a", io.BytesIO(b"1"), 1)

"""The two programs that run inside the pods of k8s/."""

from __future__ import annotations

import base64
import http.client
import http.server
import importlib.util
import json
import threading
from pathlib import Path

import pytest

from tests.s3_server import moto_server

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

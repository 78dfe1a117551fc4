"""An HTTP proxy on the loopback interface that does to S3 what networks and gateways do.

with proxy_before(server) as proxy:
    proxy.next("reset", "503")           # what the next requests meet; then all is well
    proxy.always("drip")                 # what every request meets
    with proxy.away(): ...               # nobody answers
    open_store(proxy.server.store_uri("bucket/prefix"))
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.s3_server import S3Server

GATEWAY = b"<html><body>404: default backend</body></html>"
FAULTS = ("reset", "hang up", "500", "503", "429", "gateway 404", "cut")


class FaultProxy(http.server.ThreadingHTTPServer):
    """Passes requests on, each through the next fault of its list."""

    daemon_threads = True

    def __init__(self, server: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = server.endpoint
        self.server = replace(server, endpoint=f"127.0.0.1:{self.server_port}")
        self.met: list[str] = []
        self.drip_seconds = 0.05
        self._faults: list[str] = []
        self._always = ""
        self._lock = threading.Lock()

    def next(self, *faults: str) -> None:
        """Let the next requests meet these, one each."""
        with self._lock:
            self._faults.extend(faults)

    def always(self, fault: str) -> None:
        """Let every request meet this."""
        self._always = fault

    def fault(self) -> str:
        """Take what this request meets."""
        with self._lock:
            met = self._faults.pop(0) if self._faults else self._always
            if met:
                self.met.append(met)
            return met

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Let every connection be reset."""
        self.always("reset")
        try:
            yield
        finally:
            self.always("")

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the script."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.server.fault()
        if fault in ("reset", "hang up"):
            self._leave(fault)
        elif fault.isdigit():
            xml = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
            self._answer(int(fault), xml, {"Content-Type": "application/xml"})
        elif fault == "gateway 404":
            self._answer(404, GATEWAY, {"Content-Type": "text/html"})
        else:
            self._pass_on(body, fault)

    def _leave(self, fault: str) -> None:
        self.close_connection = True
        if fault == "reset":  # a RST instead of a FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=120)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        hop = ("content-length", "transfer-encoding", "connection", "server", "date")
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in hop}
        if self.command == "HEAD":
            self._answer(answer.status, b"", {**headers, **_length(answer)})
        elif fault == "cut" and content:
            self.close_connection = True
            self._answer(answer.status, content, headers, sent=len(content) // 2)
        elif fault == "flip" and content:
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            self._answer(answer.status, flipped, headers)
        elif fault == "drip":
            self._drip(answer.status, content, headers)
        else:
            self._answer(answer.status, content, headers)

    def _drip(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self._answer(status, content or bytes(1000), headers, sent=0)
        for byte in content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(self.server.drip_seconds)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def _length(answer: http.client.HTTPResponse) -> dict[str, str]:
    length = answer.getheader("content-length")
    return {"Content-Length": length} if length else {}


@contextlib.contextmanager
def proxy_before(server: S3Server) -> Iterator[FaultProxy]:
    """Start a proxy before a server."""
    proxy = FaultProxy(server)
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()

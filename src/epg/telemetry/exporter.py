"""Serving the metrics of a running stage to Prometheus; never a reason to stop training.

| Variable | Default | Meaning |
|---|---|---|
| `EPG_METRICS_PORT` | 9464 | port; 0 = any free one, `off` = no exporter |
| `EPG_METRICS_ADDRESS` | 127.0.0.1 | address to listen on; 0.0.0.0 in a pod |
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry

DEFAULT_PORT = 9464
_PORT = "EPG_METRICS_PORT"
_ADDRESS = "EPG_METRICS_ADDRESS"


@dataclass
class Exporter:
    """A running HTTP server for one registry."""

    address: str
    port: int
    _server: WSGIServer
    _thread: threading.Thread

    @property
    def url(self) -> str:
        """Where to look."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


def start_exporter(
    registry: CollectorRegistry,
    warn: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Exporter | None:
    """Serve a registry at `http://ADDRESS:PORT/metrics`.

    Args:
        registry: what to serve.
        warn: told in one line when it is served elsewhere than asked, or not at all.
        environment: default: the process's.

    Returns:
        None when it is switched off or cannot start.
    """
    env = os.environ if environment is None else environment
    address = env.get(_ADDRESS, "").strip() or "127.0.0.1"
    port = _port(env.get(_PORT, "").strip(), warn)
    if port is None:
        return None
    try:
        return _serve(registry, address, port)
    except OSError as error:
        if port == 0:
            warn(f"no metrics: cannot listen on {address} ({error.strerror or error})")
            return None
        reason = error.strerror or error
    try:
        exporter = _serve(registry, address, 0)
    except OSError as error:
        warn(f"no metrics: cannot listen on {address} ({error.strerror or error}); set {_ADDRESS}")
        return None
    warn(f"port {port} is not to be had ({reason}): metrics are at {exporter.url}; set {_PORT}")
    return exporter


def _port(value: str, warn: Callable[[str], None]) -> int | None:
    # Kubernetes puts EPG_METRICS_PORT=tcp://... into every pod of a namespace that has a Service
    # called epg-metrics; that was not meant for us.
    if not value or value.startswith("tcp://"):
        return DEFAULT_PORT
    if value.lower() == "off":
        return None
    if value.isdecimal() and len(value) <= 5 and int(value) < 65536:
        return int(value)
    warn(
        f"{_PORT} is {value[:40]!r}: use a port, 0 for any free one, or off; {DEFAULT_PORT} is used"
    )
    return DEFAULT_PORT


def _serve(registry: CollectorRegistry, address: str, port: int) -> Exporter:
    from prometheus_client import start_http_server

    server, thread = start_http_server(port, addr=address, registry=registry)
    return Exporter(address, server.server_port, server, thread)

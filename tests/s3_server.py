"""S3 endpoints for tests, on the loopback interface: moto always, a real MinIO where there is one.

    with moto_server() as server:
        server.make_bucket("epg-test")
        server.set_environment(monkeypatch)
        open_store(server.store_uri("epg-test/runs"))

A MinIO binary is found by `EPG_TEST_MINIO` or on the PATH.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Read when this file is imported: conftest.py clears EPG_* before the first test.
_MINIO = os.environ.get("EPG_TEST_MINIO") or shutil.which("minio")


@dataclass(frozen=True)
class S3Server:
    """A running server: `endpoint` is host:port, plain HTTP."""

    endpoint: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """Variables with which `s3://` and `minio://` stores reach this server."""
        return {
            "EPG_S3_ENDPOINT": self.endpoint,
            "EPG_S3_ACCESS_KEY": self.access_key,
            "EPG_S3_SECRET_KEY": self.secret_key,
            "EPG_S3_SECURE": "false",
            "EPG_S3_REGION": "us-east-1",
        }

    def set_environment(self, patch: pytest.MonkeyPatch) -> None:
        for name, value in self.environment().items():
            patch.setenv(name, value)

    def make_bucket(self, name: str) -> str:
        """Make a bucket (it may exist) and return its name."""
        from minio import Minio

        client = Minio(
            endpoint=self.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
            region="us-east-1",
        )
        if not client.bucket_exists(name):
            client.make_bucket(name)
        return name

    def store_uri(self, path: str) -> str:
        """`minio://` URI of BUCKET or BUCKET/PREFIX on this server."""
        return f"minio://{self.endpoint}/{path}"


def minio_binary() -> Path | None:
    """The MinIO server to test with, or None."""
    return Path(_MINIO) if _MINIO else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """An S3 stand-in in a thread of this process; any credentials are right.

    All of one process share their buckets: use a prefix of your own, such as `tmp_path.name`.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"{host}:{port}", "test-access-key", "test-secret-key")
    finally:
        server.stop()


@contextlib.contextmanager
def minio_server(folder: Path | None = None) -> Iterator[S3Server]:
    """A real MinIO on a free port with made-up credentials; skips the test where there is none."""
    binary = minio_binary()
    if binary is None:
        pytest.skip("no MinIO: put `minio` on the PATH or set EPG_TEST_MINIO")
    with contextlib.ExitStack() as stack:
        if folder is None:
            # In memory where there is some: MinIO waits for the disk at every small object.
            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            temporary = tempfile.TemporaryDirectory(prefix="epg-minio-", dir=memory)
            folder = Path(stack.enter_context(temporary))
        server = S3Server(f"127.0.0.1:{free_port()}", "epg-test", secrets.token_hex(12))
        log = stack.enter_context((folder / "minio.log").open("wb"))
        process = subprocess.Popen(
            [
                *(str(binary), "server", str(folder / "data")),
                *("--address", server.endpoint, "--console-address", "127.0.0.1:0", "--quiet"),
            ],
            env={
                "HOME": str(folder),
                "PATH": os.environ.get("PATH", ""),
                "MINIO_ROOT_USER": server.access_key,
                "MINIO_ROOT_PASSWORD": server.secret_key,
                "MINIO_UPDATE": "off",
                "MINIO_BROWSER": "off",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_ready(server, process, folder / "minio.log")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def best_server() -> contextlib.AbstractContextManager[S3Server]:
    """A real MinIO where there is one, moto otherwise."""
    return minio_server() if _MINIO else moto_server()


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    url = f"http://{server.endpoint}/minio/health/ready"
    end = time.monotonic() + 120.0
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(url, timeout=2),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError(f"MinIO did not start: {log.read_text(errors='replace')[-2000:]}")

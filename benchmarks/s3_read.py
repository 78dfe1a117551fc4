"""Reading a large object of an S3 server: our store and its peers, per CPU second of the client.

`P3`: an object of 256 MiB into memory that is there already, by one GET, and by ranges of 8 MiB as
the loader reads it; peers read the whole object as their documentation says. A raw socket, which
asks by a presigned URL over plain HTTP, is what can be had at best. The server is another process.

    export EPG_S3_ACCESS_KEY=... EPG_S3_SECRET_KEY=...
    PYTHONPATH=. python benchmarks/s3_read.py --store minio://localhost:9000/BUCKET

Peers are measured where they are installed (boto3, obstore, s3fs).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.support.rounds import OURS, ratios, report, take_turns, versions
from epg.store import open_store
from epg.store.s3.client import S3Store

KEY, PIECE, RANGE = "benchmark/s3-read", 1 << 20, 8 << 20


def by_ranges(store: S3Store, target: memoryview) -> None:
    """Read as the loader does."""
    for first in range(0, len(target), RANGE):
        store.read_into(KEY, first, target[first : first + RANGE])


def by_socket(store: S3Store, target: memoryview) -> None:
    """Read over a connection of our own, with as little as HTTP takes."""
    settings = store._settings
    url = urlsplit(
        store._connection.client.get_presigned_url("GET", settings.bucket, store._name(KEY))
    )
    host, _, port = settings.endpoint.partition(":")
    request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {settings.endpoint}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(request.encode())
        buffer = bytearray(PIECE)
        size = 0
        while b"\r\n\r\n" not in buffer[:size]:
            size += connection.recv_into(memoryview(buffer)[size:])
        body = buffer.index(b"\r\n\r\n") + 4
        filled = size - body
        target[:filled] = buffer[body:size]
        while filled < len(target):
            filled += connection.recv_into(target[filled : filled + PIECE])


def by_boto3(store: S3Store, target: memoryview, *, pieces: bool) -> None:
    """Read by boto3: in pieces, or at once."""
    boto3, config = import_module("boto3"), import_module("botocore.config")

    settings = store._settings
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{settings.endpoint}",
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        region_name=settings.region,
        config=config.Config(response_checksum_validation="when_required"),
    )
    body = client.get_object(Bucket=settings.bucket, Key=store._name(KEY))["Body"]
    if not pieces:
        target[:] = body.read()
        return
    filled = 0
    for piece in body.iter_chunks(PIECE):
        target[filled : filled + len(piece)] = piece
        filled += len(piece)


def by_obstore(store: S3Store, target: memoryview) -> None:
    """Read by obstore's stream."""
    obstore, stores = import_module("obstore"), import_module("obstore.store")

    settings = store._settings
    peer = stores.S3Store(
        settings.bucket,
        endpoint=f"http://{settings.endpoint}",
        access_key_id=settings.access_key,
        secret_access_key=settings.secret_key,
        region=settings.region,
        client_options={"allow_http": True},
    )
    filled = 0
    for piece in obstore.get(peer, store._name(KEY)).stream(PIECE):
        target[filled : filled + len(piece)] = piece
        filled += len(piece)


def by_s3fs(store: S3Store, target: memoryview) -> None:
    """Read by s3fs, at once."""
    s3fs = import_module("s3fs")

    settings = store._settings
    peer = s3fs.S3FileSystem(
        key=settings.access_key,
        secret=settings.secret_key,
        endpoint_url=f"http://{settings.endpoint}",
        skip_instance_cache=True,
    )
    target[:] = peer.cat_file(f"{settings.bucket}/{store._name(KEY)}")


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="", help="minio://HOST:PORT/BUCKET, plain HTTP")
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if not given.store:
        print("no --store: nothing is measured")
        return
    store = open_store(given.store)
    assert isinstance(store, S3Store), "an object store is what is measured"
    measure(store, given.mebibytes << 20, given.rounds, given.output)


def measure(store: S3Store, size: int, rounds: int, output: Path | None) -> None:
    """Put an object there, let the ways take turns, and report."""
    pieces = [os.urandom(PIECE) for _ in range(size // PIECE)]
    expected = hashlib.sha256(b"".join(pieces)).digest()
    store.put_pieces(KEY, iter(pieces))
    del pieces
    target = memoryview(bytearray(size))

    def whole() -> None:
        store.read_into(KEY, 0, target)

    ways: dict[str, Callable[[], None]] = {
        OURS: whole,
        "epg, ranges of 8 MiB": lambda: by_ranges(store, target),
        "raw socket": lambda: by_socket(store, target),
        "boto3 iter_chunks": lambda: by_boto3(store, target, pieces=True),
        "boto3 read": lambda: by_boto3(store, target, pieces=False),
        "obstore": lambda: by_obstore(store, target),
        "s3fs": lambda: by_s3fs(store, target),
    }
    found = {}
    for name, way in ways.items():
        target[:16] = bytes(16)
        try:
            way()
        except Exception as error:
            print(f"{name} is not measured: {type(error).__name__}: {str(error)[:100]}")
        else:
            assert hashlib.sha256(target).digest() == expected, name
            found[name] = way
    rows = take_turns(found, rounds)
    for row in rows.values():
        row["gigabytes_per_cpu_second"] = size / row["cpu"] / 1e9
    store.delete(KEY)
    report(
        "s3_read",
        output,
        {
            "bytes": size,
            "rounds": rounds,
            "versions": versions("minio", "urllib3", "boto3", "obstore", "s3fs"),
            "rows": rows,
            "ratios": {"P3": ratios(rows)},
        },
    )


if __name__ == "__main__":
    main()

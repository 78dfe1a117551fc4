"""The object store: all that a run does with it, tried on two objects of our own."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import urllib3

from epg.cluster.doctor.check import FAILED, OK, SKIPPED, Check, tried
from epg.errors import UserError
from epg.store import ObjectExists, Store, open_store
from epg.store.digest import stream_sha256

_BIG = 17 << 20  # bytes: the store sends parts of 16 MiB, so this takes two
_SKEW = 60.0  # seconds; S3 refuses 15 minutes


def check_store(uri: str | None) -> Iterator[Check]:
    """Do with a store all that a run does, under a key of our own, and take it away again."""
    if not uri:
        yield Check("store", SKIPPED, "give --store URI, as you give it to a run")
        return
    try:
        store = open_store(uri).sub(f"epg-doctor-{secrets.token_hex(6)}")
    except UserError as error:
        yield Check("store", FAILED, str(error))
        return
    first = tried("store: put", lambda: _put(store, uri))
    yield first
    if first.outcome != OK:
        return  # the others would say the same again
    checks: list[tuple[str, Callable[[Store], str]]] = [
        ("store: get", _get),
        ("store: conditional put", _put_if_absent),
        ("store: multipart, stream", _big_object),
        ("store: list", _list),
        ("store: delete", _delete),
    ]
    try:
        for name, function in checks:
            yield tried(name, lambda function=function: function(store))  # type: ignore[misc]
    finally:
        for key in ("small", "big"):
            try:
                store.delete(key)
            except UserError:
                break
    yield check_clock(uri)


def _put(store: Store, uri: str) -> str:
    store.put_bytes("small", b"epg doctor")
    return f"wrote to {uri}"


def _get(store: Store) -> str:
    _same(store.get_bytes("small"), b"epg doctor")
    if store.size("small") != 10 or store.size("nothing") is not None:
        raise UserError("the store tells sizes wrongly: a proxy before it that answers HEAD?")
    return "read the same bytes"


def _put_if_absent(store: Store) -> str:
    try:
        store.put_bytes("small", b"another", if_absent=True)
    except ObjectExists:
        _same(store.get_bytes("small"), b"epg doctor")
        return "refused to replace an object"
    raise UserError(
        "the store replaced an object against If-None-Match: two runs of one name could spoil "
        "each other; use MinIO, SeaweedFS or AWS S3 of a later release"
    )


def _big_object(store: Store) -> str:
    piece = bytes(range(256)) * 4096  # 1 MiB
    wanted = hashlib.sha256(piece * (_BIG >> 20)).hexdigest()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="epg-doctor-") as folder:
        path = Path(folder, "big")
        with path.open("wb") as file:
            for _ in range(_BIG >> 20):
                file.write(piece)
        store.put_file("big", path)
    with store.open("big") as stream:
        found = stream_sha256(stream)
    if found != wanted:
        raise UserError("a big object came back with other bytes: look at the store's disks")
    return f"{_BIG >> 20} MiB there and back in {time.monotonic() - began:.1f} s"


def _list(store: Store) -> str:
    found = [(info.key, info.size) for info in store.list()]
    if found != [("big", _BIG), ("small", 10)]:
        raise UserError(f"the store lists {found} where big and small are")
    return "lists what was written"


def _delete(store: Store) -> str:
    store.delete("small")
    store.delete("big")
    if list(store.list()) or store.size("small") is not None:
        raise UserError("what was deleted is still there: is the bucket locked or versioned?")
    return "took it away again"


def _same(found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise UserError(f"the store gave back {found[:20]!r} for {wanted!r}")


def check_clock(uri: str) -> Check:
    """Compare our clock with the store's: S3 refuses signatures of another time."""
    name = "store: clock"
    if not uri.startswith(("s3://", "minio://")):
        return Check(name, SKIPPED, "local files have our own clock")
    from epg.store.s3.settings import settings_from_uri

    settings = settings_from_uri(uri)
    url = f"{'https' if settings.secure else 'http'}://{settings.endpoint}/"
    try:
        pool = urllib3.PoolManager(timeout=5.0, retries=False)
        date = pool.request("GET", url, redirect=False).headers.get("date", "")
        ahead = time.time() - parsedate_to_datetime(date).timestamp()
    except (urllib3.exceptions.HTTPError, ValueError, TypeError):
        return Check(name, SKIPPED, "the server tells no time")
    if abs(ahead) > _SKEW:
        side = "ahead of" if ahead > 0 else "behind"
        return Check(name, FAILED, f"ours is {abs(ahead):.0f} s {side} the store's: set it (NTP)")
    return Check(name, OK, f"{abs(ahead):.0f} s apart")

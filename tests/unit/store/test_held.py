"""Who has lost a place writes nothing there any more, and may still read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from epg.documents import sealed, unseal
from epg.store import lease as leases
from epg.store import open_store
from epg.store.held import HeldStore
from epg.store.lease import InUse, Lease

WRITES = {
    "put_bytes": lambda store, file: store.put_bytes("a", b"new"),
    "put_file": lambda store, file: store.put_file("a", file),
    "delete": lambda store, file: store.delete("a"),
    "clear": lambda store, file: store.clear("b"),
}


class Lost:
    """A guard of a place that somebody else has."""

    def check(self) -> None:
        raise InUse("another has it")

    confirm = check


class Kept:
    def check(self) -> None:
        pass

    confirm = check


@pytest.fixture
def store(tmp_path: Path):
    store = open_store(str(tmp_path / "store"))
    store.put_bytes("a", b"old")
    store.put_bytes("b/c", b"old")
    return store


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("inner", [False, True])
def test_no_write_passes_once_the_place_is_lost(store, tmp_path, write, inner):
    file = tmp_path / "file"
    file.write_bytes(b"new")
    held = HeldStore(HeldStore(store, Lost()), Kept()) if inner else HeldStore(store, Lost())
    for one in (held, held.sub("b")):
        with pytest.raises(InUse, match="another has it"):
            write(one, file)
        with pytest.raises(InUse):
            one.check() if one is held else one.put_bytes("c", b"")
    assert [store.get_bytes(key) for key in ("a", "b/c")] == [b"old", b"old"]
    assert held.get_bytes("a") == b"old"
    assert [info.key for info in held.list()] == ["a", "b/c"]


def test_who_slept_through_its_beats_looks_before_it_writes(store, monkeypatch):
    """As after a stopped process or a long time without the store: no thread has noticed yet."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 3600.0)
    with Lease(store, "lock", "epg run") as lease:
        held = HeldStore(store, lease)
        held.put_bytes("a", b"mine")
        ours = unseal(json.loads(store.get_bytes("lock")), required=True)
        other = {**ours, "token": "0" * 32, "owner": "the other"}
        store.put_bytes("lock", json.dumps(sealed(other)).encode())
        monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.0)
        time.sleep(0.01)
        with pytest.raises(InUse, match="in use by the other"):
            held.put_bytes("a", b"late")
        with pytest.raises(InUse):
            lease.check()
    assert store.get_bytes("a") == b"mine"
    assert json.loads(store.get_bytes("lock"))["token"] == "0" * 32

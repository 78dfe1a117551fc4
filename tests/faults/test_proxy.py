"""What networks and gateways do to a store, by a proxy before it: each call succeeds or ends."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epg.errors import UserError
from epg.runs.handover import HandOver, StoredObject
from epg.store import Store, open_store
from epg.store.s3 import client, http
from tests.proxy import FAULTS, FaultProxy, proxy_before
from tests.s3_server import moto_server

pytestmark = pytest.mark.s3

BIG = os.urandom(client._PART + 100_000)  # goes up in two parts


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with moto_server() as server, proxy_before(server) as proxy:
        server.make_bucket("epg-proxy")
        yield proxy


@pytest.fixture
def opened(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str], Store]]:
    """Open a store that is waited for so many seconds, as by a process that never heard of it."""
    proxy.server.set_environment(monkeypatch)
    proxy.met.clear()
    monkeypatch.setattr(http, "_heard", set())

    def open_(deadline: str) -> Store:
        monkeypatch.setenv("EPG_S3_DEADLINE", deadline)
        return open_store(proxy.server.store_uri(f"epg-proxy/{tmp_path.name}"))

    yield open_
    proxy.always("")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_gets_over_every_fault(
    proxy: FaultProxy, opened: Callable[[str], Store], tmp_path: Path, fault: str
) -> None:
    store = opened("60")
    (tmp_path / "big").write_bytes(BIG)

    def met(call: Callable[[], object]) -> object:
        proxy.next(fault)
        return call()

    met(lambda: store.put_bytes("a", b"one"))
    met(lambda: store.put_bytes("b", b"two", if_absent=True))
    met(lambda: store.put_file("c", tmp_path / "big"))
    assert met(lambda: store.get_bytes("a")) == b"one"
    assert met(lambda: [info.key for info in store.list()]) == ["a", "b", "c"]
    assert met(lambda: store.size("c")) == len(BIG)
    met(lambda: store.get_file("c", tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == BIG
    met(lambda: store.delete("a"))
    assert store.size("a") is None
    assert set(proxy.met) == {fault}


def test_a_gateway_without_its_store_never_says_that_an_object_is_absent(
    proxy: FaultProxy, opened: Callable[[str], Store]
) -> None:
    """Whoever believes it trains everything again."""
    store = opened("60")
    store.put_bytes("a", b"one")
    proxy.next("gateway 404")
    assert store.size("a") == 3
    proxy.next(*["gateway 404"] * 3)
    assert store.size("a") == 3
    proxy.next(*["gateway 404"] * 3)
    assert store.get_bytes("a") == b"one"
    proxy.always("gateway 404")
    store = opened("2")
    for call in (lambda: store.size("a"), lambda: store.get_bytes("a")):
        with pytest.raises(UserError, match=r"the answer \(404\) is not S3's"):
            call()


def test_a_store_that_is_away_at_first_contact_is_waited_for(
    proxy: FaultProxy, opened: Callable[[str], Store]
) -> None:
    """As in a pod, whose steps have EPG_S3_DEADLINE set."""
    store = opened("60")
    proxy.always("reset")
    threading.Timer(2.0, proxy.always, [""]).start()
    store.put_bytes("late", b"1")
    assert len(proxy.met) > 2
    assert store.get_bytes("late") == b"1"


def test_a_store_that_goes_away_in_the_middle_of_an_object_is_waited_for(
    proxy: FaultProxy, opened: Callable[[str], Store], tmp_path: Path
) -> None:
    store = opened("60")
    (tmp_path / "big").write_bytes(BIG)
    store.put_file("big", tmp_path / "big")
    with store.open("big") as stream:
        proxy.next("cut")
        start = stream.read(10)
    proxy.next("cut", "reset", "cut", "503", "cut")
    with store.open("big") as stream:
        assert stream.read() == BIG
    assert start == BIG[:10]
    proxy.next("cut", "reset")
    assert store.get_range("big", 1000, len(BIG) - 2000) == BIG[1000:-1000]


@pytest.mark.parametrize("what", ["object", "list"])
def test_a_body_that_drips_ends_by_the_deadline(
    proxy: FaultProxy, opened: Callable[[str], Store], what: str
) -> None:
    store = opened("60")
    store.put_bytes("slow", bytes(100_000))
    proxy.always("drip")
    store = opened("5")
    with pytest.raises(UserError, match="it takes too long") as caught:
        store.get_bytes("slow") if what == "object" else list(store.list())
    assert "EPG_S3_DEADLINE" in str(caught.value)


def test_a_flipped_bit_on_the_way_is_seen(
    proxy: FaultProxy, opened: Callable[[str], Store], tmp_path: Path
) -> None:
    store = opened("60")
    store.put_bytes("weights", BIG)
    digest = hashlib.sha256(BIG).hexdigest()
    handed = HandOver("pretrain", "smoke", {"w": StoredObject("weights", "uri", digest, len(BIG))})
    proxy.always("flip")
    with pytest.raises(UserError, match="SHA-256"):
        handed.fetch(store, "w", tmp_path / "w")
    proxy.always("")
    handed.fetch(store, "w", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == BIG

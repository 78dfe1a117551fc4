"""Two processes, one run: the second is refused, a dead one's lock is taken over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from epg.errors import UserError
from epg.store import Store, lock, open_store
from epg.store.holder import Holder, process_start
from epg.store.lock import RunLock
from tests.s3_server import S3Server, minio_server, moto_server

KINDS = [
    "local",
    pytest.param("moto", marks=pytest.mark.s3),
    pytest.param("minio", marks=pytest.mark.s3),
]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[S3Server | None]:
    if request.param == "local":
        yield None
        return
    with moto_server() if request.param == "moto" else minio_server() as running:
        running.make_bucket("epg-lock")
        yield running


@pytest.fixture
def store(
    server: S3Server | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.5)
    if server is None:
        yield open_store(str(tmp_path / "runs" / "digits"))
        return
    server.set_environment(monkeypatch)
    yield open_store(server.store_uri(f"epg-lock/{tmp_path.name}/digits"))


@pytest.fixture
def s3_store(server: S3Server | None, store: Store) -> Store:
    if server is None:
        pytest.skip("files are locked by the kernel")
    return store


def test_second_holder_is_told_who_and_since_when(store: Store) -> None:
    with RunLock(store, "lock", "epg run") as held:
        with pytest.raises(UserError) as caught, RunLock(store, "lock", "epg pretrain"):
            pass
        held.check()
    message = str(caught.value)
    assert message.startswith(f"{store.uri} is in use by epg run (host ")
    assert f"process {os.getpid()}) since 2" in message
    assert message.endswith("choose another run name")
    assert "\n" not in message


def test_after_release_the_next_one_gets_it_and_nothing_is_left(store: Store) -> None:
    for _ in range(3):
        with RunLock(store, "lock", "epg run"):
            assert [info.key for info in store.list()] == ["lock"]
    assert list(store.list()) == []


def test_it_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(store, "lock", "epg run"):
        raise ZeroDivisionError
    with RunLock(store, "lock", "epg run"):
        pass


HOLD = """
import sys, time
from epg.store import open_store
from epg.store.lock import RunLock
with RunLock(open_store(sys.argv[1]), "lock", "epg run"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_lock_of_a_killed_process_is_free_at_once(store: Store) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.uri],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {child.pid}"), RunLock(store, "lock", "b"):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
    with RunLock(store, "lock", "b"):
        assert store.get_bytes("lock")
    assert list(store.list()) == []


def test_stale_lock_of_another_host_is_taken_over(s3_store: Store) -> None:
    gone = replace(Holder.here("epg run"), host="node-7", heartbeat=time.time() - 100, since=0.0)
    s3_store.put_bytes("lock", gone.to_json())
    with RunLock(s3_store, "lock", "epg run"):
        holder = Holder.from_json(s3_store.get_bytes("lock"))
        assert holder is not None
        assert holder.pid == os.getpid()
        assert [info.key for info in s3_store.list()] == ["lock"]


def test_fresh_lock_of_another_host_is_respected(s3_store: Store) -> None:
    s3_store.put_bytes("lock", replace(Holder.here("epg run"), host="node-7").to_json())
    with pytest.raises(UserError, match="host node-7"), RunLock(s3_store, "lock", "epg run"):
        pass


def test_living_holder_with_a_wrong_clock_is_respected(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WATCH_SECONDS", 30.0)  # ends at the first sign of life
    alive = replace(Holder.here("epg run"), host="node-7", heartbeat=1000.0)
    s3_store.put_bytes("lock", alive.to_json())
    stop = threading.Event()

    def beat() -> None:
        beats = 1000.0
        while not stop.wait(0.05):
            beats += 10
            s3_store.put_bytes("lock", replace(alive, heartbeat=beats).to_json())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="host node-7"), RunLock(s3_store, "lock", "epg run"):
            pass
    finally:
        stop.set()
        thread.join()


def test_of_several_that_take_over_one_succeeds(s3_store: Store) -> None:
    dead = replace(Holder.here("epg run"), process_started="long ago")
    s3_store.put_bytes("lock", dead.to_json())
    start, held, refused, done = threading.Barrier(4), [], [], threading.Event()

    def take() -> None:
        start.wait()
        try:
            with RunLock(s3_store, "lock", "epg run") as mine:
                held.append(mine)
                done.wait(20)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(0.5)
    end = time.monotonic() + 60
    while len(held) + len(refused) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)


def test_claim_of_one_that_died_while_taking_over_is_dropped(s3_store: Store) -> None:
    dead = replace(Holder.here("epg run"), process_started="long ago")
    s3_store.put_bytes("lock", dead.to_json())
    s3_store.put_bytes(f"lock.taken-over-{dead.token}", dead.to_json())
    with pytest.raises(UserError), RunLock(s3_store, "lock", "epg run"):
        pass
    with RunLock(s3_store, "lock", "epg run"):
        assert [info.key for info in s3_store.list()] == ["lock"]


def test_the_lock_is_renewed_and_its_loss_noticed(s3_store: Store) -> None:
    with RunLock(s3_store, "lock", "epg run") as held:
        first = Holder.from_json(s3_store.get_bytes("lock"))
        assert first is not None
        _wait_for(lambda: Holder.from_json(s3_store.get_bytes("lock")) != first)
        held.check()
        thief = replace(Holder.here("epg run"), host="node-9")

        def stolen() -> bool:
            s3_store.put_bytes("lock", thief.to_json())
            try:
                held.check()
            except UserError as error:
                return "host node-9" in str(error)
            return False

        _wait_for(stolen)
    assert s3_store.get_bytes("lock") == thief.to_json(), "what is not ours stays"


def _wait_for(condition: object) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_process_start_tells_the_living_from_the_dead() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) != ""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_start(child.pid) == ""


def test_zombie_holds_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # it ends, but nobody has waited for it
    _wait_for(lambda: process_start(child.pid) == "")
    child.wait()
    child.stdout.close()


def test_holder_of_another_pid_namespace_is_not_called_dead() -> None:
    dead = replace(Holder.here("epg run"), process_started="long ago")
    assert dead.has_ended()
    assert not replace(dead, process_space="another container").has_ended()
    assert not replace(dead, host="node-7").has_ended()
    assert not Holder.here("epg run").has_ended()

"""Two processes, one run: the second is refused, one that is gone is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from epg.errors import UserError
from epg.store import Store, lease, open_store
from epg.store.lease import Holder, Lease, Watch
from tests.s3_server import S3Server, minio_server, moto_server
from tests.toys.command import PATIENCE

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
        running.make_bucket("epg-lease")
        yield running


@pytest.fixture
def store(
    server: S3Server | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)
    if server is None:
        yield open_store(str(tmp_path / "runs" / "digits"))
        return
    server.set_environment(monkeypatch)
    yield open_store(server.store_uri(f"epg-lease/{tmp_path.name}/digits"))


def dead() -> Holder:
    """One of this machine whose process is known to be gone."""
    return replace(Holder.here("epg run"), process_started=-1.0)


def elsewhere() -> Holder:
    """One of another machine, of which nothing can be known; its clock is wrong, too."""
    return replace(Holder.here("epg run"), host="node-7", since=1000.0)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def holder_in(store: Store) -> Holder:
    found = Holder.from_json(store.get_bytes("lock"))
    assert found is not None
    return found


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list()]


def test_second_holder_is_told_who_and_since_when(store: Store) -> None:
    with Lease(store, "lock", "epg run") as held:
        with pytest.raises(UserError) as caught, Lease(store, "lock", "epg pretrain"):
            pass
        held.check()
    message = str(caught.value)
    assert message.startswith(f"{store.uri} is in use by epg run (host ")
    assert f"process {os.getpid()}) since 2" in message
    assert message.endswith("choose another run name")
    assert "\n" not in message


def test_after_release_the_next_one_gets_it_and_nothing_is_left(store: Store) -> None:
    for _ in range(3):
        with Lease(store, "lock", "epg run"):
            assert keys(store) == ["lock"]
    assert keys(store) == []


def test_it_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), Lease(store, "lock", "epg run"):
        raise ZeroDivisionError
    with Lease(store, "lock", "epg run"):
        pass


HOLD = """
import sys, time
from epg.errors import UserError
from epg.store import open_store
from epg.store.lease import Lease
sys.stdin.readline()
try:
    with Lease(open_store(sys.argv[1]), "lock", "epg run"):
        print("held", flush=True)
        time.sleep(600)
except UserError as error:
    print(error, flush=True)
"""


def start_holder(store: Store) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, store.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def say_go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def test_lease_of_a_killed_process_is_free_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 3600.0)
    with start_holder(store) as child:
        say_go(child)
        assert answer(child) == "held\n"
        with pytest.raises(UserError, match=f"process {child.pid}"), Lease(store, "lock", "b"):
            pass
        child.kill()
    with Lease(store, "lock", "b"):
        assert keys(store) == ["lock"]
    assert keys(store) == []


@pytest.mark.parametrize("before", ["nothing", "a dead process"])
def test_of_several_processes_one_succeeds(store: Store, before: str) -> None:
    if before == "a dead process":
        store.put_bytes("lock", dead().to_json())
    children = [start_holder(store) for _ in range(3)]
    try:
        for child in children:
            say_go(child)
        answers = sorted(answer(child) for child in children)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert answers.count("held\n") == 1, answers
    assert sum("is in use by epg run" in text for text in answers) == 2, answers


def test_of_several_that_take_over_one_succeeds(store: Store) -> None:
    store.put_bytes("lock", dead().to_json())
    start, held, refused, done = threading.Barrier(4), [], [], threading.Event()

    def take() -> None:
        start.wait()
        try:
            with Lease(store, "lock", "epg run") as mine:
                held.append(mine)
                done.wait(60)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(held) + len(refused) == 4)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)
    assert keys(store) == []


def test_silent_lease_of_another_machine_is_taken_over(store: Store) -> None:
    store.put_bytes("lock", elsewhere().to_json())
    with Lease(store, "lock", "epg run"):
        assert holder_in(store).pid == os.getpid()
        assert keys(store) == ["lock"]


def test_renewed_lease_of_another_machine_is_respected(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 30.0)  # ends at the first sign of life
    alive = elsewhere()
    store.put_bytes("lock", alive.to_json())
    stop = threading.Event()

    def renew() -> None:
        beat = 0
        while not stop.wait(0.05):
            beat += 1
            store.put_bytes("lock", replace(alive, beat=beat).to_json())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(UserError, match="host node-7"), Lease(store, "lock", "epg run"):
            pass
    finally:
        stop.set()
        thread.join()


def test_who_only_looks_sees_who_holds_and_who_is_gone(store: Store) -> None:
    watch = Watch(store)
    assert not watch.held("lock")
    with Lease(store, "lock", "here"):
        assert watch.held("lock")
    assert not watch.held("lock")
    store.put_bytes("lock", dead().to_json())
    assert not watch.held("lock")
    silent = elsewhere()
    for beat in range(3):  # it lives for longer than silence is borne
        store.put_bytes("lock", replace(silent, beat=beat).to_json())
        assert watch.held("lock")
        time.sleep(0.3)
    wait_for(lambda: not watch.held("lock"))
    assert holder_in(store).beat == 2


def test_one_that_is_given_back_while_it_is_watched_is_free(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 30.0)
    store.put_bytes("lock", elsewhere().to_json())
    threading.Timer(0.2, store.delete, ["lock"]).start()
    with Lease(store, "lock", "epg run"):
        assert holder_in(store).pid == os.getpid()
        assert keys(store) == ["lock"]


def test_claim_of_one_that_died_while_taking_over_bars_nobody(store: Store) -> None:
    first, second = dead(), dead()
    store.put_bytes("lock", first.to_json())
    store.put_bytes(f"lock.taken-over-{first.token}", second.to_json())
    with Lease(store, "lock", "epg run"):
        assert keys(store) == ["lock"]


def test_claim_of_one_that_is_just_taking_over_is_respected(store: Store) -> None:
    gone = dead()
    store.put_bytes("lock", gone.to_json())
    store.put_bytes(f"lock.taken-over-{gone.token}", Holder.here("epg eval").to_json())
    with pytest.raises(UserError, match="in use by epg eval"), Lease(store, "lock", "epg run"):
        pass
    assert holder_in(store) == gone


def test_claim_that_comes_late_finds_the_lease_in_other_hands(store: Store) -> None:
    """It saw a dead holder, then slept while another one took over and removed its claim."""
    gone, winner = dead(), Holder.here("epg run")
    late = Lease(store, "lock", "late")
    late._holder = Holder.here("late")
    store.put_bytes("lock", winner.to_json())
    assert not late._replace(gone)
    assert holder_in(store) == winner
    assert keys(store) == ["lock"]


def test_it_is_renewed_and_its_loss_noticed(store: Store) -> None:
    with Lease(store, "lock", "epg run") as held:
        first = holder_in(store)
        wait_for(lambda: holder_in(store) != first)
        assert holder_in(store).token == first.token
        held.check()
        thief = replace(Holder.here("epg run"), host="node-9")

        def stolen() -> bool:
            store.put_bytes("lock", thief.to_json())
            try:
                held.check()
            except UserError as error:
                return "in use by epg run (host node-9" in str(error)
            return False

        wait_for(stolen)
    assert store.get_bytes("lock") == thief.to_json(), "what is not ours stays"


def test_its_removal_is_noticed(store: Store) -> None:
    with Lease(store, "lock", "epg run") as held:

        def removed() -> bool:
            store.delete("lock")
            try:
                held.check()
            except UserError as error:
                return "lock, which keeps others out, was removed" in str(error)
            return False

        wait_for(removed)


def test_store_that_is_away_for_some_beats_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = threading.Semaphore(0)

    def away(*_: object) -> bytes:
        missed.release()
        raise UserError("S3 at http://s3:9000: no answer in time")

    with Lease(store, "lock", "epg run") as held:
        with monkeypatch.context() as patch:
            patch.setattr(store, "get_bytes", away)
            for _ in range(3):
                assert missed.acquire(timeout=PATIENCE)
        before = holder_in(store)
        wait_for(lambda: holder_in(store).beat > before.beat)
        held.check()
    assert keys(store) == []


def test_store_that_is_away_at_the_end_hides_no_result(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bytes:
        raise UserError("S3 at http://s3:9000: no answer in time")

    with Lease(store, "lock", "epg run"):
        monkeypatch.setattr(store, "get_bytes", away)


def test_lease_that_is_just_being_written_is_looked_at_again(store: Store) -> None:
    store.put_bytes("lock", b"")
    mine = Holder.here("epg pretrain")
    threading.Timer(0.1, store.put_bytes, ["lock", mine.to_json()]).start()
    with pytest.raises(UserError, match="in use by epg pretrain"), Lease(store, "lock", "epg run"):
        pass


GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"7",
    b"null",
    b'"text"',
    b"{}",
    b"[" * 100_000,
    b'{"owner": 1e999}',
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_holder(data: bytes) -> None:
    assert Holder.from_json(data) is None


@pytest.mark.parametrize("data", [b"", b"\xff{"])
def test_garbage_that_nobody_renews_is_taken_over(store: Store, data: bytes) -> None:
    store.put_bytes("lock", data)
    with Lease(store, "lock", "epg run"):
        assert keys(store) == ["lock"]
    assert keys(store) == []


@pytest.mark.parametrize("value", [None, "", "x/../y", -1, 1e308, float("nan"), 2**70, [], {}])
@pytest.mark.parametrize("name", list(Holder.here("a").__dict__))
def test_odd_values_are_read_or_not_and_never_raise(name: str, value: object) -> None:
    content = {**json.loads(Holder.here("epg run").to_json()), name: value}
    holder = Holder.from_json(json.dumps(content).encode())
    assert holder is None or (str(holder) and holder.is_alive() in (True, False, None))
    if name == "token":
        assert holder is None


def test_lines_of_an_owner_become_one() -> None:
    holder = Holder.from_json(Holder.here("epg\nrun").to_json())
    assert holder is not None
    assert holder.owner == "epg run"


def old_lock(pid: int, started: str) -> bytes:
    """What version 0.1 wrote."""
    here = Holder.here("epg run --run-name digits")
    return json.dumps(
        {
            "owner": here.owner,
            "host": here.host,
            "pid": pid,
            "process_started": started,
            "process_space": here.process_space,
            "since": here.since,
            "heartbeat": here.since + 0.5,
            "token": here.token,
        }
    ).encode()


def test_lock_of_a_dead_process_of_version_0_1_is_free_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 3600.0)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    store.put_bytes("lock", old_lock(child.pid, "123456"))
    with Lease(store, "lock", "epg run"):
        assert keys(store) == ["lock"]


def test_lock_of_version_0_1_whose_process_id_lives_on_is_watched(store: Store) -> None:
    store.put_bytes("lock", old_lock(os.getpid(), "running"))
    old = holder_in(store)
    assert old.is_alive() is None
    with Lease(store, "lock", "epg run"):
        assert holder_in(store).token != old.token


def test_holder_of_another_pid_namespace_is_not_called_dead() -> None:
    assert dead().is_alive() is False
    assert replace(dead(), process_space="another container").is_alive() is None
    assert replace(dead(), host="node-7").is_alive() is None
    assert Holder.here("epg run").is_alive() is True

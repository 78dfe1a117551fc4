"""Checkpoints reach a store that is far away while training goes on, in order and whole."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from epg.errors import UserError
from epg.store import open_store
from epg.store.lease import InUse
from epg.store.local import LocalStore
from epg.store.scratch import scratch_folder
from epg.training import delivery
from epg.training.checkpoints import Checkpoints
from epg.training.delivery import Delivery
from epg.training.keeper import Checkpoint
from epg.training.loop import Watch, train
from epg.training.world import World
from tests.toys import stuck_delivery
from tests.unit.training.test_loop import Toy, batches, settings

LONG = 30.0  # seconds, for what comes at once


class FarStore(LocalStore):
    """A store that takes what it is given when it is told to, and may be away."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.reached = threading.Event()  # somebody is at the gate
        self.error: Exception | None = None
        self.tries = 0
        self.manifests: list[int] = []  # steps, as they became whole

    def put_file(self, key: str, path: Path) -> None:
        self.reached.set()
        assert self.open_gate.wait(LONG)
        self.tries += 1
        if self.error is not None:
            raise self.error
        super().put_file(key, path)

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        super().put_bytes(key, data, if_absent=if_absent)
        if key.endswith("manifest.json"):
            self.manifests.append(int(key[5:14]))

    def close_gate(self) -> None:
        self.reached.clear()
        self.open_gate.clear()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarStore]:
    store = FarStore(tmp_path / "far")
    yield store
    store.open_gate.set()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "disk" / "scratch").mkdir(parents=True)
    return tmp_path / "disk" / "scratch"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.01)


def deliver(far: LocalStore, scratch: Path, heard: list[str] | None = None) -> Delivery:
    heard = heard if heard is not None else []
    kept = Checkpoints(far, {"a": 1}, {}, scratch, file_bytes=16)
    return Delivery(kept, tell=heard.append, warn=heard.append)


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), value), "v": torch.full((2, 2), value)}


def in_store(root: Path, scratch: Path) -> Checkpoint | None:
    """What another process would go on from; all of its bytes are as they were saved."""
    into = state(-1.0)
    found = Checkpoints(open_store(str(root)), {"a": 1}, {}, scratch).restore(lambda: into)
    if found is not None:
        assert all(torch.equal(into[name], kept) for name, kept in state(found.step).items())
    return found


def step_in(far: FarStore, scratch: Path) -> int | None:
    found = in_store(far.path("x").parent, scratch)
    return found.step if found else None


def save(keeper: Delivery, step: int) -> None:
    tensors = state(float(step))
    keeper.save(step, tensors, [{"step": step}])
    for tensor in tensors.values():
        tensor.fill_(-7.0)  # training goes on


def save_and_wait(keeper: Delivery, step: int) -> None:
    """Train on, as it were, until the delivery has failed."""
    with keeper:
        save(keeper, step)
        wait_for(keeper.check)


def test_training_goes_on_and_the_newest_waits(far: FarStore, scratch: Path) -> None:
    far.close_gate()
    with deliver(far, scratch) as keeper:
        save(keeper, 1)  # returns though the store has not a byte of it
        assert far.reached.wait(LONG)
        assert step_in(far, scratch) is None
        for step in (2, 3, 4):
            save(keeper, step)
            assert len(list(scratch.iterdir())) == 2, "one under way, one that waits"
        assert not far.manifests
        far.open_gate.set()
    assert far.manifests == [1, 4], "in order; what was overtaken is left out"
    assert step_in(far, scratch) == 4
    assert not list(scratch.iterdir())


def test_only_a_whole_one_is_the_latest(far: FarStore, scratch: Path) -> None:
    with deliver(far, scratch) as keeper:
        save(keeper, 1)
        keeper.settle()
        far.close_gate()
        save(keeper, 2)
        assert far.reached.wait(LONG)
        assert step_in(far, scratch) == 1
        far.open_gate.set()
        keeper.settle()
        assert step_in(far, scratch) == 2


def test_a_store_that_is_away_for_a_while_is_told_once(far: FarStore, scratch: Path) -> None:
    heard: list[str] = []
    with deliver(far, scratch, heard) as keeper:
        far.error = UserError("the store is away")
        save(keeper, 1)
        wait_for(lambda: far.tries > 3)
        keeper.check()
        save(keeper, 2)
        far.error = None
    assert [text for text in heard if "away" in text] == [
        "the checkpoint at step 1 is not stored yet: the store is away; training goes on, and it "
        "is tried again"
    ]
    assert step_in(far, scratch) == 2
    assert len(list(far.path("x").parent.iterdir())) <= 2, "what is torn was swept"


def test_a_store_that_stays_away_stops_training_and_the_newest_is_kept_here(
    far: FarStore, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 0.0)
    for step in (3, 5):  # the second time, the folder of the first goes
        far.error = UserError("the store is away")
        with pytest.raises(UserError, match="the store is away; it is kept as") as stopped:
            save_and_wait(deliver(far, scratch), step)
    [kept] = scratch.parent.glob("epg-unsent-checkpoint-*/step-*")
    assert f"it is kept as {kept}: " in str(stopped.value)
    shutil.copytree(kept, tmp_path / "far" / kept.name, dirs_exist_ok=True)
    assert step_in(far, scratch) == 5


def test_who_waits_for_the_store_hears_that_it_is_away(far: FarStore, scratch: Path) -> None:
    with deliver(far, scratch) as keeper:
        far.close_gate()
        save(keeper, 1)
        assert far.reached.wait(LONG)
        save(keeper, 2)
        far.error = UserError("the store is away")
        threading.Timer(0.05, far.open_gate.set).start()
        with pytest.raises(UserError, match="checkpoint at step 2 is not stored: the store is"):
            keeper.settle()
    assert step_in(far, scratch) is None


def test_another_holder_of_the_stage_ends_it_at_once(far: FarStore, scratch: Path) -> None:
    far.error = InUse("another has it")
    with pytest.raises(InUse):
        save_and_wait(deliver(far, scratch), 1)
    assert far.tries == 1


def test_a_fault_of_the_disk_does_not_hang(far: FarStore, scratch: Path) -> None:
    far.close_gate()
    keeper = deliver(far, scratch)
    save(keeper, 1)
    assert far.reached.wait(LONG)
    save(keeper, 2)
    for file in scratch.glob("step-000000002.*/state-*"):
        file.unlink()
        file.mkdir()
    far.open_gate.set()
    with pytest.raises(OSError, match="directory"):
        keeper.settle()


def test_without_room_on_the_disk_training_waits(
    far: FarStore, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "has_room", lambda self, size: size < 28)  # as `state` has
    heard: list[str] = []
    with deliver(far, scratch, heard) as keeper:
        save(keeper, 1)
        assert step_in(far, scratch) == 1
        assert not list(scratch.iterdir())
    assert "no room for a checkpoint of 28B" in heard[0]


def test_killed_on_the_way_leaves_nothing_for_long(
    far: FarStore, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deliver(far, scratch) as keeper:
        save(keeper, 1)
    root = far.path("x").parent
    monkeypatch.setenv("EPG_SCRATCH", str(scratch))
    command = [sys.executable, stuck_delivery.__file__, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.kill()
    process.communicate()
    [torn] = root.glob("step-000000002.*")
    assert [path.name for path in torn.iterdir()] == ["series.jsonl"]
    assert step_in(far, scratch.parent) == 1
    [left] = scratch.iterdir()
    os.utime(left, (0, 0))  # a minute passes
    with scratch_folder("next") as mine, deliver(far, mine) as keeper:
        save(keeper, 3)
    assert not list(scratch.iterdir())
    assert not torn.exists()
    assert step_in(far, scratch) == 3


# --- With the loop -----------------------------------------------------------------------------


def trained(far: FarStore, scratch: Path, toy: Toy, watch: Watch, **changed: Any) -> None:
    with_series = settings(**{"checkpoint_every_seconds": 1e9, **changed})
    train(toy, with_series, batches, deliver(far, scratch), watch, World.single())


def at_step(step: int, act: Callable[[], None]) -> Watch:
    def progress(done: int, _total: int, _values: dict[str, float]) -> None:
        if done == step:
            act()

    return Watch(progress=progress)


def test_a_stop_waits_until_the_store_has_it(far: FarStore, scratch: Path) -> None:
    def stop() -> None:
        far.close_gate()
        threading.Timer(0.2, far.open_gate.set).start()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        trained(far, scratch, Toy(), at_step(4, stop))
    assert stopped.value.code == 143
    assert far.manifests == [4]


def test_an_end_and_a_failure_wait_for_what_is_under_way(far: FarStore, scratch: Path) -> None:
    slow = functools.partial(threading.Timer, 0.2, far.open_gate.set)
    far.close_gate()
    watch = at_step(6, lambda: slow().start())
    with pytest.raises(UserError, match="not finite"):
        trained(far, scratch, Toy(bad_step=6), watch, checkpoint_every_seconds=1e-9)
    assert far.manifests[-1] == 6, "the last good one"
    trained(far, scratch, Toy(), Watch(), checkpoint_every_seconds=1e-9)
    assert far.manifests[-1] == 11


def test_a_second_signal_waits_for_nothing(far: FarStore, scratch: Path) -> None:
    def stop() -> None:
        far.close_gate()
        os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(SystemExit) as stopped:
        trained(far, scratch, Toy(), at_step(4, stop))
    assert stopped.value.code == 130
    assert not far.manifests


def wait_for(condition: Callable[[], object]) -> None:
    """Call it until it is true (or raises), for a while."""
    for _ in range(int(LONG / 0.01)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come")

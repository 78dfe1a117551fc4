"""What `epg checkpoints` says of whole, torn and damaged checkpoints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from epg.store import Store, open_store
from epg.store.lease import Lease
from epg.training.checkpoints import Checkpoints
from epg.training.kept import kept_checkpoints, prune
from tests.toys.command import epg


@pytest.fixture
def run(tmp_path: Path) -> Path:
    place = open_store(str(tmp_path / "run")).sub("pretrain/checkpoints")
    checkpoints = Checkpoints(place, {"a": 1}, {}, tmp_path)
    for step in (10, 20):
        checkpoints.save(step, {"w": torch.full((1000,), float(step))}, [{"step": step}])
    return tmp_path / "run"


def place_of(run: Path) -> Store:
    return open_store(str(run)).sub("pretrain/checkpoints")


def flip(run: Path, step: int = 20) -> None:
    [path] = run.glob(f"pretrain/checkpoints/step-{step:09d}.*/state-*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_newest_first_with_their_bytes(run: Path) -> None:
    heard: list[tuple[int, int]] = []
    newest, older = kept_checkpoints(place_of(run), True, lambda *numbers: heard.append(numbers))
    assert (newest.step, older.step) == (20, 10)
    assert newest.fault is older.fault is None
    assert heard[-1] == (newest.size + older.size,) * 2
    assert newest.size > 4000


def test_a_flipped_bit_is_seen_by_who_reads_it(run: Path) -> None:
    flip(run)
    assert [kept.fault for kept in kept_checkpoints(place_of(run), False)] == [None, None]
    newest, older = kept_checkpoints(place_of(run), True)
    assert newest.fault is not None
    assert "state-00000.safetensors has SHA-256" in newest.fault
    assert older.fault is None


def test_a_torn_one_and_a_lost_file_are_told(run: Path) -> None:
    [manifest] = run.glob("pretrain/checkpoints/step-000000010.*/manifest.json")
    manifest.unlink()
    [series] = run.glob("pretrain/checkpoints/step-000000020.*/series.jsonl")
    series.unlink()
    newest, older = kept_checkpoints(place_of(run), False)
    assert newest.fault == "series.jsonl is gone"
    assert not newest.torn
    assert older.torn
    assert older.fault is not None


def test_the_command_says_what_can_be_used(run: Path) -> None:
    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return epg(run.parent, "checkpoints", "run", *more, toys=False)

    fine = call("--verify")
    assert fine.returncode == 0
    assert "pretrain  step 20" in fine.stdout
    assert "verified" in fine.stdout
    flip(run)
    bad = call("--verify")
    assert bad.returncode == 2
    assert "step-000000020" in bad.stderr
    assert "cannot be used" in bad.stderr
    assert "none" in epg(run.parent, "checkpoints", "other", toys=False).stdout


@pytest.mark.parametrize(
    ("damaged", "keep", "left"),
    [
        ((), 1, [20]),
        ((), 0, []),
        ((20,), 1, [10]),
        ((20,), 0, []),
        ((10, 20), 1, [20, 10]),
    ],
)
def test_good_ones_stay_and_damaged_ones_where_there_is_no_good_one(
    run: Path, damaged: tuple[int, ...], keep: int, left: list[int]
) -> None:
    place = place_of(run)
    for step in damaged:
        flip(run, step)
    place.put_bytes("step-000000030.12345678/state-00000.safetensors", b"half")
    gone = prune(place, kept_checkpoints(place, True), keep)
    assert [kept.step for kept in kept_checkpoints(place, False)] == left
    assert {kept.step for kept in gone} == {10, 20, 30} - set(left)


def test_the_command_keeps_what_it_is_told_to(run: Path) -> None:
    def call() -> subprocess.CompletedProcess[str]:
        return epg(run.parent, "checkpoints", "run", "--keep", "1", toys=False)

    with Lease(open_store(str(run)), "leases/pretrain", "somebody who trains"):
        refused = call()
    assert refused.returncode == 2
    assert "somebody who trains" in refused.stderr
    assert len(kept_checkpoints(place_of(run), False)) == 2
    flip(run)
    kept = call()
    assert kept.returncode == 0, kept.stderr
    assert "step 20" in kept.stdout
    assert "removed (state-00000.safetensors has SHA-256" in kept.stdout
    assert [one.step for one in kept_checkpoints(place_of(run), False)] == [10]
    assert epg(run.parent, "checkpoints", "typo", "--keep", "1", toys=False).returncode == 0
    assert not (run.parent / "typo").exists()

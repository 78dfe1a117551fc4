"""Scratch folders and unfinished files go with their process, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epg.store.files import sweep_leftovers
from epg.store.keys import PART_PREFIX
from epg.store.scratch import held, scratch_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from epg.store.files import write_atomically
from epg.store.scratch import scratch_folder

def die(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

with scratch_folder("killed") as folder:
    write_atomically(Path(sys.argv[1], "object"), die)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EPG_SCRATCH", str(tmp_path))
    return tmp_path


def aged(path: Path, seconds: float = 120.0) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_it_is_there_while_the_block_runs(place: Path) -> None:
    with scratch_folder("a") as folder:
        assert folder.parent == place
        (folder / "x").write_bytes(b"1")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_swept(place: Path) -> None:
    (place / "below").mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(place / "below")], check=False)
    (folder,) = place.glob("epg-scratch-killed-*")
    (part,) = (place / "below").glob(f"{PART_PREFIX}*")
    with scratch_folder("next"):
        sweep_leftovers(place, below=True)
        assert folder.exists() and part.exists(), "young"  # noqa: PT018 - one thing
    aged(folder)
    aged(part)
    with scratch_folder("next"):
        sweep_leftovers(place, below=True)
        assert not folder.exists()
        assert not part.exists()


def test_what_is_in_use_stays_whatever_its_age(place: Path) -> None:
    with scratch_folder("long") as folder:
        aged(folder, 1e6)
        part = place / f"{PART_PREFIX}00"
        part.write_bytes(b"")
        aged(part, 1e6)
        with held(part) as ours, scratch_folder("next"):
            assert ours
            sweep_leftovers(place)
            assert part.exists()
        assert folder.exists()


def test_links_are_not_followed(place: Path) -> None:
    precious = place / "precious"
    precious.mkdir()
    link = place / "epg-scratch-link"
    link.symlink_to(precious)
    os.utime(link, (0, 0), follow_symlinks=False)
    with scratch_folder("next"):
        assert precious.exists()

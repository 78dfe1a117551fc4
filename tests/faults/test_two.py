"""Two processes at one training stage, as two pipeline runs of one name have them on a cluster."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from epg.store import open_store
from epg.store.lease import Holder
from tests.toys.command import PATIENCE
from tests.toys.training import command, environment, finish, prepare, result

STAGE = ["pretrain"]
#: Long enough for the others to come and go; the one that is to end is not.
ENDLESS = "pretrain.steps=1000000"
#: A beat of a fifth of a second: a minute of the real one would be a minute of the test.
QUICK = """
import sys
from epg.cli.app import main
from epg.store import lease
lease.HEARTBEAT_SECONDS = 0.2
sys.exit(main())
"""


def started(line: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=environment(), stdout=pipe, stderr=pipe, text=True)


def first_checkpoint(root: Path, name: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not list((root / name / "pretrain" / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_the_second_is_refused_and_the_first_is_undisturbed(tmp_path: Path) -> None:
    for name in ("alone", "shared"):
        prepare(tmp_path, name)
    finish(STAGE, tmp_path, "alone")
    first = started(command(STAGE, tmp_path, "shared"))
    first_checkpoint(tmp_path, "shared", first)
    first.send_signal(signal.SIGSTOP)  # it holds its lease for as long as the second one needs
    try:
        second = subprocess.run(
            command(STAGE, tmp_path, "shared"),
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()[-1:]
    assert "is in use by epg pretrain (host " in line
    assert f"process {first.pid}) since " in line
    _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, said
    assert result(tmp_path, "shared", STAGE) == result(tmp_path, "alone", STAGE)


@pytest.mark.slow
def test_who_lost_the_lease_stops_and_leaves_no_result(tmp_path: Path) -> None:
    """Another one took over, as after a minute in which nothing was renewed."""
    prepare(tmp_path, "lost")
    line = command(STAGE, tmp_path, "lost", ENDLESS)
    line[1:3] = ["-c", QUICK]
    process = started(line)
    first_checkpoint(tmp_path, "lost", process)
    store = open_store(str(tmp_path / "lost"))
    held = Holder.from_json(store.get_bytes("leases/pretrain"))
    assert held is not None
    other = replace(held, owner="stage pretrain of another pod", host="pod-2", token="0" * 32)
    while process.poll() is None:  # a beat that was under way may have written once more
        store.put_bytes("leases/pretrain", other.to_json())
        time.sleep(0.05)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, said
    assert "in use by stage pretrain of another pod (host pod-2" in said.splitlines()[-1]
    assert not (tmp_path / "lost" / "stages" / "pretrain.json").exists()
    assert Holder.from_json(store.get_bytes("leases/pretrain")) == other

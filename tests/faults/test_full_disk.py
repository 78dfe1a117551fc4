"""A disk that fills up while training: one line, and with space the same command goes on.

The disk is a small one of the test's own, in a name space where it may mount it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.toys.command import PATIENCE
from tests.toys.training import command, environment

#: Mount, shard with room enough, leave room for no checkpoint, train; then with room again.
STORY = """
set -e
mount -t tmpfs -o size=64m disk {disk}
{shard}
room=$(( $(du -s -k {disk} | cut -f1) + 64 ))
mount -o remount,size=${{room}}k {disk}
code=0; {pretrain} || code=$?
echo "full: exit $code"
mount -o remount,size=64m {disk}
{pretrain}
echo "with room: exit 0"
test -s {disk}/full/stages/pretrain.json
"""


def can_mount() -> bool:
    if not shutil.which("unshare"):
        return False
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "probe", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_full_disk_in_training_is_one_line_and_costs_nothing(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs a name space in which a disk may be mounted (unshare -rm)")
    disk = tmp_path / "disk"
    disk.mkdir()
    lines = {s: shlex.join(command([s], disk, "full")) for s in ("shard", "pretrain")}
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", STORY.format(disk=disk, **lines)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line for line in ran.stdout.splitlines() if ": exit " in line] == [
        "full: exit 2",
        "with room: exit 0",
    ]
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("epg: error: ")]
    assert "no space left" in line
    assert "pretrain/checkpoints" in line
    assert "run the same command again" in line
    assert "Traceback" not in ran.stderr

"""SIGKILL at any moment of a training stage: the same command ends with the same bits."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.toys.training import command, environment, finish, folder, prepare, result


def kill_in_training(stage: list[str], root: Path, name: str, delay: float) -> None:
    """Start the stage, wait for its first checkpoint and a while longer, and kill it."""
    process = subprocess.Popen(
        command(stage, root, name), env=environment(), stderr=subprocess.DEVNULL
    )
    checkpoints = root / name / folder(stage) / "checkpoints"
    seen = set(checkpoints.glob("step-*"))
    while process.poll() is None and not set(checkpoints.glob("step-*")) - seen:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [["pretrain"], ["finetune", "--objective", "consistency"]],
    ids=["pretrain", "consistency"],
)
def test_killed_training_ends_bitwise_equal(tmp_path: Path, stage: list[str]) -> None:
    chance = random.Random(7)
    for name in ("whole", "killed"):
        prepare(tmp_path, name)
        if stage != ["pretrain"]:
            finish(["pretrain"], tmp_path, name)
    finish(stage, tmp_path, "whole")
    for _ in range(3):
        kill_in_training(stage, tmp_path, "killed", chance.uniform(0.0, 0.15))
    finish(stage, tmp_path, "killed")
    assert result(tmp_path, "killed", stage) == result(tmp_path, "whole", stage)
    assert not (tmp_path / "killed" / folder(stage) / "checkpoints").exists()

"""SIGKILL at any moment of a training stage: the same command ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epg.runs.run import Run
from epg.stages.shard import shard

SETTINGS = ["pretrain.steps=60", "denoising.steps=60", "consistency.steps=60"]
#: As often as the disk allows, so that kills also fall into saves.
SETTINGS += [f"{s}.checkpoint_every_seconds=0.02" for s in ("pretrain", "denoising", "consistency")]


def command(stage: list[str], root: Path, name: str) -> list[str]:
    line = [sys.executable, "-m", "epg", *stage, "--recipe", "smoke"]
    line += ["--store", str(root), "--run-name", name]
    return line + [part for s in SETTINGS for part in ("--set", s)]


def environment() -> dict[str, str]:
    return os.environ | {"EPG_METRICS_PORT": "off", "OMP_NUM_THREADS": "1"}


def finish(stage: list[str], root: Path, name: str) -> str:
    done = subprocess.run(
        command(stage, root, name), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def kill_in_training(stage: list[str], root: Path, name: str, delay: float) -> None:
    """Start the stage, wait for its first checkpoint and a while longer, and kill it."""
    process = subprocess.Popen(
        command(stage, root, name), env=environment(), stderr=subprocess.DEVNULL
    )
    checkpoints = root / name / _folder(stage) / "checkpoints"
    seen = set(checkpoints.glob("step-*"))
    while process.poll() is None and not set(checkpoints.glob("step-*")) - seen:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _folder(stage: list[str]) -> str:
    return stage[0] if len(stage) == 1 else f"{stage[0]}-{stage[2]}"


def result(root: Path, name: str, stage: list[str]) -> dict[str, str]:
    record = json.loads((root / name / "stages" / f"{_folder(stage)}.json").read_text())
    return {key: entry["sha256"] for key, entry in record["outputs"].items()}


def prepare(root: Path, name: str) -> None:
    overrides: dict[str, object] = {
        key: float(value) for key, _, value in (s.partition("=") for s in SETTINGS)
    }
    shard(Run.open("smoke", overrides, str(root), name))


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
    assert not (tmp_path / "killed" / _folder(stage) / "checkpoints").exists()

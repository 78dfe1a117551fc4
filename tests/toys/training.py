"""A real training stage of the smoke recipe, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from epg.runs.run import Run
from epg.stages.shard import shard

SETTINGS = ["pretrain.steps=60", "denoising.steps=60", "consistency.steps=60"]
#: As often as the disk allows, so that kills also fall into saves.
SETTINGS += [f"{s}.checkpoint_every_seconds=0.02" for s in ("pretrain", "denoising", "consistency")]


def command(stage: list[str], root: Path, name: str, *more: str) -> list[str]:
    """Return the line that runs a stage; `more` are settings besides `SETTINGS`."""
    line = [sys.executable, "-m", "epg", *stage, "--recipe", "smoke"]
    line += ["--store", str(root), "--run-name", name]
    return line + [part for s in (*SETTINGS, *more) for part in ("--set", s)]


def environment() -> dict[str, str]:
    """Return this environment, with one thread and without a port for metrics."""
    return os.environ | {"EPG_METRICS_PORT": "off", "OMP_NUM_THREADS": "1"}


def finish(stage: list[str], root: Path, name: str) -> str:
    """Run a stage to its end; return what it wrote to stderr."""
    done = subprocess.run(
        command(stage, root, name), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def folder(stage: list[str]) -> str:
    """Return the name of a stage's folder in its run."""
    return stage[0] if len(stage) == 1 else f"{stage[0]}-{stage[2]}"


def result(root: Path, name: str, stage: list[str]) -> dict[str, str]:
    """Return the digests of a finished stage's outputs."""
    record = json.loads((root / name / "stages" / f"{folder(stage)}.json").read_text())
    return {key: entry["sha256"] for key, entry in record["outputs"].items()}


def prepare(root: Path, name: str) -> None:
    """Make the shards of a run."""
    overrides: dict[str, object] = {
        key: float(value) for key, _, value in (s.partition("=") for s in SETTINGS)
    }
    shard(Run.open("smoke", overrides, str(root), name))

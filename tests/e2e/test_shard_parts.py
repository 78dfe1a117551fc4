"""The compiled pipeline with its shards in parts, run here: they are those of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from epg.cluster.local import LocalSpec, compiled_pipeline
from epg.runs.run import Run
from epg.stages.shard import shard
from tests.toys.command import PATIENCE, ROOT


def run_here(folder: Path, pipeline: str, **arguments: object) -> str:
    """Run a compiled pipeline as `epg run` does; return what its steps said."""
    spec = folder / "spec.json"
    LocalSpec(str(compiled_pipeline(pipeline)), arguments, str(folder)).write(spec)
    command = [sys.executable, "-m", "epg.cluster.local", str(spec)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.tar*")}


def test_pods_write_the_shards_that_one_would_write(tmp_path):
    said = run_here(
        tmp_path,
        "epg_full.yaml",
        recipe="smoke",
        run_name="one",
        store=str(tmp_path / "store"),
        denoising=False,
        consistency=False,
        shard_parts=3,
    )
    for step in ("shard-plan", "shard-part", "shard", "reference-statistics", "pretrain", "report"):
        assert f" {step}: done in " in said
    shard(Run.open("smoke", {}, str(tmp_path / "alone"), "one"))
    assert tars(tmp_path / "store") == tars(tmp_path / "alone")

"""The compiled pipeline with its shards in parts, run here: they are those of one process."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from epg.runs.run import Run
from epg.stages.shard import shard
from tests.toys.command import ROOT, run_compiled


def without_training(folder: Path) -> Path:
    """The compiled pipeline as far as it shards; the report stays its end."""
    spec = next(yaml.safe_load_all((ROOT / "pipelines" / "epg_full.yaml").read_text()))
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    for name, task in list(tasks.items()):
        if task["taskInfo"]["name"] not in ("shard", "shard-parts"):
            del tasks[name]
    path = folder / "sharding.yaml"
    path.write_text(json.dumps(spec))
    return path


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.tar*")}


def test_pods_write_the_shards_that_one_would_write(tmp_path):
    said = run_compiled(
        tmp_path,
        without_training(tmp_path),
        recipe="smoke",
        run_name="one",
        store=str(tmp_path / "store"),
        shard_parts=3,
    )
    for step in ("shard-plan", "shard-part", "shard", "report"):
        assert f" {step}: done in " in said
    for part in ("1/3", "2/3"):
        assert f'"part": "{part}"' in said
    shard(Run.open("smoke", {}, str(tmp_path / "alone"), "one"))
    assert tars(tmp_path / "store") == tars(tmp_path / "alone")

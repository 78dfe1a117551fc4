"""The compiled pipeline of parts, run here: its shards are those that one process writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from epg.cluster.local import LocalSpec, compiled_pipeline
from epg.runs.run import Run
from epg.stages.shard import shard
from tests.toys.command import ROOT


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.tar*")}


def test_pods_write_the_shards_that_one_would_write(tmp_path):
    arguments = {
        "recipe": "digits",
        "run_name": "one",
        "store": str(tmp_path / "store"),
        "shard_parts": ["1/2", "2/2"],
    }
    spec = tmp_path / "spec.json"
    LocalSpec(str(compiled_pipeline("epg_shard.yaml")), arguments, str(tmp_path)).write(spec)
    code = (
        "import sys; from pathlib import Path; from epg.cluster import local; "
        "local.run_pipeline(local.LocalSpec.read(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(spec)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = tars(tmp_path / "store")
    assert len([name for name in found if name.endswith(".part.json")]) == 4
    again = shard(Run.open("digits", {}, str(tmp_path / "store"), "one"))
    shard(Run.open("digits", {}, str(tmp_path / "alone"), "one"))
    assert tars(tmp_path / "store") == tars(tmp_path / "alone")
    assert again.metrics["images_train"] == 1438

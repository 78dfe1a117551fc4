"""The smoke recipe through the compiled pipeline, as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from epg.stages.catalog import STAGES
from tests.s3_server import best_server
from tests.toys.command import ROOT, epg, run_compiled

pytestmark = pytest.mark.slow


def records(folder: Path) -> dict[str, str]:
    paths = (folder / "runs" / "smoke" / "stages").glob("*.json")
    return {path.stem: json.loads(path.read_text())["finished"] for path in paths}


def test_smoke_recipe_on_local_files(tmp_path):
    first = epg(tmp_path, "run", "--recipe", "smoke", toys=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stderr == ""
    assert set(records(tmp_path)) == set(STAGES)
    assert "Fréchet distance" in first.stdout
    assert re.search(r"http://127\.0\.0\.1:\d+/metrics", first.stdout)
    for objective in ("denoising", "consistency"):
        assert f"{objective}: registered smoke-{objective}:v1 (" in first.stdout
        assert (tmp_path / "runs" / "registry" / f"smoke-{objective}" / "v1").is_dir()
    report = tmp_path / "runs" / "smoke" / "report.html"
    assert f"report: {report}" in first.stdout
    assert "<html" in report.read_text()

    before = records(tmp_path)
    second = epg(tmp_path, "run", "--recipe", "smoke", toys=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("already done") == len(STAGES) - 1  # the report is always made
    after = records(tmp_path)
    assert {k: v for k, v in after.items() if k != "report"} == {
        k: v for k, v in before.items() if k != "report"
    }

    sweep_as_a_pipeline(tmp_path)
    assert {k: v for k, v in records(tmp_path).items() if k in before and k != "report"} == {
        k: v for k, v in before.items() if k != "report"
    }

    command = re.search(r"^try next: epg (.*)$", first.stdout, re.M)
    assert command is not None
    sampled = epg(tmp_path, *command.group(1).split(), toys=False)
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def sweep_as_a_pipeline(folder: Path) -> None:
    """The compiled sweep: steps that train hand on what is there."""
    said = run_compiled(
        folder,
        ROOT / "pipelines" / "epg_sweep.yaml",
        recipe="smoke",
        run_name="smoke",
        store=str(folder / "runs"),
        objective="denoising",
        grid={"steps": [2, 3]},
    )
    for step in ("shard", "reference-statistics", "pretrain", "finetune-denoising"):
        assert f" {step}: already done" in said
    record = json.loads((folder / "runs" / "smoke" / "stages" / "sweep-denoising.json").read_text())
    assert record["metrics"]["points"] == 2
    assert record["details"]["overrides"]["denoising.sampling_steps"] in (2, 3)
    assert (folder / "runs" / "smoke" / record["outputs"]["plot"]["key"]).is_file()


@pytest.mark.s3
def test_smoke_recipe_on_s3(tmp_path):
    with best_server() as server:
        server.make_bucket("epg-e2e")
        store = server.store_uri("epg-e2e/team/runs")
        ran = epg(
            tmp_path,
            *("run", "--recipe", "smoke", "--no-denoising", "--store", store),
            toys=False,
            **server.environment(),
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "consistency: registered smoke-consistency:v1 (" in ran.stdout
        assert "finetune-denoising" not in ran.stdout
        local = {path.name for path in (tmp_path / "runs" / "smoke").iterdir()}
        assert "stages" not in local  # results are in the store, not on this disk
        assert {"run.log", "events.jsonl", "report.html"} <= local
        sampled = epg(
            tmp_path,
            *("sample", "--model", "smoke-consistency", "--num", "20"),
            *("--registry", f"{store}/registry", "--out", "s.npz"),
            toys=False,
            **server.environment(),
        )
        assert sampled.returncode == 0, sampled.stderr

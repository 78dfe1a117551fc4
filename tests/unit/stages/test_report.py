from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from epg.config.loading import load_recipe, parse_overrides
from epg.documents import written
from epg.evaluation.grid import class_grid
from epg.runs.perform import perform
from epg.runs.record import Outputs, load_record
from epg.runs.run import Run
from epg.runs.stage import Stage
from epg.stages.catalog import STAGES
from epg.stages.findings import recipe_settings, reused_stages
from epg.stages.report import final_status, report, report_component
from epg.stages.shard import shard
from epg.telemetry.progress import StageReporter
from tests.toys.handed import artifact
from tests.unit.report.example import RECIPE, digits, evaluation, losses
from tests.unit.report.pages import check_page


@dataclass
class Status:
    state: str | None
    error_message: str | None = None


def open_run(folder: Path) -> Run:
    return Run.open(RECIPE, {}, str(folder / "runs"), "first")


def done(
    run: Run, stage: str, fill: Callable[[Outputs], None], inputs: dict[str, str] | None = None
) -> None:
    """Leave a finished stage behind, with real files and a real record."""

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        fill(outputs)

    perform(run, STAGES[stage], config={}, inputs=inputs or {}, work=work)


def fill_evaluation(outputs: Outputs) -> None:
    images, labels = digits()
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=images, arr_1=labels)
    outputs.put_bytes("samples", "samples.npz", buffer.getvalue())
    outputs.put_bytes("grid", "grid.png", class_grid(images, labels))
    outputs.put_bytes("trajectory", "trajectory.png", class_grid(images, labels))
    outputs.metrics.update(evaluation(0.97, 63, 200.0, 3.0))


def fill_series(outputs: Outputs) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in losses(100, ("a", "b"), 0, 1.0))
    outputs.put_bytes("series", "series.jsonl", rows.encode() + b'{"step": 101, "lo')


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose diffusion branch is done."""
    run = open_run(tmp_path)
    shard(run)
    done(run, "pretrain", fill_series)
    done(run, "evaluate-denoising", fill_evaluation, {"generator": "weights"})
    done(run, "gate-denoising", lambda outputs: outputs.metrics.update(verdict="pass", reason="ok"))
    return run


def test_the_page_and_its_pictures_are_stored(run: Run) -> None:
    record = report(run)
    assert set(record.outputs) == {"report", "grid-denoising", "trajectory-denoising"}
    assert record.outputs["report"]["key"] == "report/report.html"
    html = run.store.get_bytes("report/report.html")
    assert run.store.get_bytes("report.html") == html  # where a person looks first
    original = run.store.get_bytes("evaluate-denoising/grid.png")
    assert run.store.get_bytes("report/grid-denoising.png") == original
    page = check_page(html.decode())
    assert "1,797 images, 10 classes" in page.text
    assert "real, held out" in page.text
    assert "97.0 %" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 20 + 1  # sheet, rows, trajectory
    assert load_record(run, "report") == record


def test_the_sweep_of_the_judged_weights_is_shown(run: Run) -> None:
    points = [
        {"settings": {"guidance_scale": scale}, "metrics": {"frechet_distance": distance}}
        for scale, distance in ((1.0, 9.5), (2.0, 7.25))
    ]
    content = {"figure": "frechet_distance", "num_samples": 640, "best": points[1]}

    def swept(inputs: dict[str, str]) -> str:
        def work(reporter: StageReporter, outputs: Outputs) -> None:
            outputs.put_bytes("points", "points.json", written({**content, "points": points}))

        stage = Stage("sweep-denoising", "sweep", "denoising", "judging", ())
        perform(run, stage, config={}, inputs=inputs, work=work, always=True)
        report(run)
        return check_page(run.store.get_bytes("report.html").decode()).text

    text = swept({"generator": "another average", "generator-ema-0.5": "weights"})
    assert "Sweep: diffusion" in text
    assert "of 640 images for each setting" in text
    assert "7.25" in text
    assert "Fréchet distance by guidance scale" in text
    assert "Sweep" not in swept({"generator": "of another training", "neighbours": "weights"})


def test_it_is_made_anew_every_time(run: Run) -> None:
    first = report(run)
    done(
        run, "gate-consistency", lambda outputs: outputs.metrics.update(verdict="fail", reason="n")
    )
    second = report(run)
    assert second.outputs["report"]["sha256"] != first.outputs["report"]["sha256"]


def test_what_is_damaged_is_named_and_left_out(run: Run) -> None:
    run.store.put_bytes("evaluate-denoising/grid.png", b"altered")
    run.store.put_bytes("stages/pretrain.json", b"{")
    run.store.put_bytes("failures/odd.json", b"[]")
    report(run)
    text = check_page(run.store.get_bytes("report.html").decode()).text
    assert "grid.png: SHA-256 is" in text
    assert "pretrain.json: not a stage record" in text
    assert "failures/odd.json: not a failure record" in text
    assert "97.0 %" in text


def test_the_component_tells_of_a_failed_run_and_writes_the_artifact(
    run: Run, tmp_path: Path
) -> None:
    failure = {"stage": "finetune-consistency", "message": "no <b>memory</b>", "time": 2e9}
    run.store.put_bytes("failures/finetune-consistency.json", json.dumps(failure).encode())
    page = artifact(tmp_path / "artifacts" / "page")
    report_component(
        page=page,
        status=Status("FAILED"),
        recipe=RECIPE,
        overrides={},
        store=str(tmp_path / "runs"),
        run_name="first",
    )
    html = Path(page.path).read_text()
    assert "no <b>memory</b>" in check_page(html).text
    assert "The run failed at finetune-consistency." in html


def test_a_run_of_which_nothing_exists_has_a_page(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    report(run, Status("FAILED", "shard: no such folder"))
    assert "shard: no such folder" in check_page(run.store.get_bytes("report.html").decode()).text


def test_every_way_of_stating_the_final_status_is_read() -> None:
    assert final_status(None) is None
    assert final_status(Status(None)) is None
    for word in ("SUCCEEDED", "COMPLETE"):  # of the local runner, of a server
        named = final_status(Status(word))
        assert named is not None
        assert named.state == "SUCCEEDED"
    status = final_status(Status("SUCCEEDED"))
    assert status is not None
    assert (status.state, status.message) == ("SUCCEEDED", "")


def test_reused_stages_are_read_from_the_events_of_epg_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events.jsonl"
    listed = [("shard", "reused"), ("pretrain", "reused"), ("pretrain", "started")]
    lines = [json.dumps({"stage": stage, "event": event}) for stage, event in listed]
    events.write_text("\n".join(lines) + "\n")
    assert reused_stages() == frozenset()
    monkeypatch.setenv("EPG_EVENTS", str(events))
    assert reused_stages() == {"shard"}
    events.write_text('{"stage": "shard", "event": "reused"')
    assert reused_stages() == frozenset()


def test_a_recipe_of_ones_own_is_found_again_beside_the_run(tmp_path: Path) -> None:
    own = RECIPE.replace("name: digits", "name: my-own")
    run = Run.open(own, {}, f"file://{tmp_path}", "first")
    assert recipe_settings(run) == (f"{tmp_path}/first/recipe.yaml", [])


def test_settings_that_differ_from_the_packaged_recipe_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = load_recipe(RECIPE)
    monkeypatch.setattr("epg.stages.findings.available_recipes", lambda: ["digits"])
    monkeypatch.setattr("epg.stages.findings.load_recipe", lambda name: packaged)
    changed = {
        "denoising.steps": 7,
        "data.source": "folder:/x",
        "denoising.betas": [0.9, 0.99],
        "evaluate.svc": None,
        "gate.consistency": {"recall": {"min": 0.5}},
        "consistency.decay_steps": {0.5: 0.1},
    }
    run = Run.open(RECIPE, changed, str(tmp_path), "first")
    argument, settings = recipe_settings(run)
    assert argument == "digits"
    assert sorted(settings) == [
        'consistency.decay_steps={"0.5": 0.1}',
        'data.source="folder:/x"',
        "denoising.betas=[0.9, 0.99]",
        "denoising.steps=7",
        "evaluate.svc=null",
        'gate.consistency={"recall": {"min": 0.5}}',
    ]
    assert load_recipe(RECIPE, parse_overrides(settings)) == run.recipe


def test_no_heavy_library_is_imported(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from epg.stages.report import report\n"
        "from epg.runs.run import Run\n"
        f"report(Run.open({RECIPE!r}, {{}}, {str(tmp_path / 'runs')!r}, 'first'))\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy', 'kfp', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

"""ImageNet's two tars become a registered model, stage by stage, by the packaged recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.make_imagenet import make
from epg.data.manifest import Manifest
from epg.registry import open_registry
from epg.runs.record import load_record
from epg.runs.run import Run
from epg.session.preflight import RunRequest, make_plan
from epg.stages.catalog import STAGES
from epg.stages.settings import check_unchanged

CLASSES = 4


@pytest.mark.slow
def test_from_two_tars_to_a_registered_model(tmp_path: Path) -> None:
    list(make(tmp_path / "set", CLASSES, per_class=10, val_per_class=5, side=80, seed=0))
    plan = make_plan(
        RunRequest(
            recipe="imagenet64_smoke",
            output=str(tmp_path / "runs"),
            data=f"imagenet:{tmp_path / 'set'}",
            settings=[
                "data.mean=null",
                "data.std=null","evaluate.num_samples=20", "evaluate.few=true",
                      "pretrain.steps=2", "denoising.steps=2",
                      "consistency.steps=2", "pretrain.warmup_steps=0",
                      "denoising.warmup_steps=0", "consistency.warmup_steps=0",
                      "pretrain.batch_size=8", "denoising.batch_size=8",
                      "consistency.batch_size=8", "denoising.sampling_steps=2"],
        )
    )  # fmt: skip
    assert plan.run.recipe.data.num_classes is None
    assert plan.arguments["overrides"] == {}  # Kubeflow's local runner takes no null
    run = Run.open(plan.arguments["recipe"], {}, str(tmp_path / "runs"), "one")
    for stage in STAGES.values():
        if stage.objective in ("", "denoising"):
            arguments = {"objective": stage.objective} if stage.objective else {}
            record = stage.function()(run, **arguments)
            check_unchanged(run)
            if stage.name == "shard":
                manifest = Manifest.from_json(
                    run.store.get_bytes(record.outputs["manifest"]["key"])
                )
    assert manifest.classes == ["tench", "goldfish", "great white shark", "tiger shark"]
    assert manifest.class_counts == {"train": [10] * CLASSES, "held-out": [5] * CLASSES}
    assert manifest.report["converted"]["CMYK to RGB"] == CLASSES + 1
    # What the recipe leaves to the data is settled from the shards on, and kept with the weights.
    trained = load_record(run, "finetune-denoising")
    assert trained is not None
    data, measured = trained.config["data"], manifest.report["pixels"]
    assert (data["num_classes"], data["mean"], data["std"]) == (
        CLASSES,
        measured["mean"],
        measured["std"],
    )
    registry = open_registry(str(tmp_path / "runs" / "registry"))
    assert registry.resolve("imagenet64_smoke-denoising").version == "v1"
    assert (tmp_path / "runs" / "one" / "report.html").exists()

"""Stage `finetune`: encoder and fresh decoder become a generator (EPG, stage 2)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from epg.data.manifest import Manifest
from epg.runs.entry import open_run, stage_entry
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fetch_output, file_sha256
from epg.runs.run import Run
from epg.stages.catalog import find_stage
from epg.stages.inputs import stored_encoder, stored_manifest
from epg.stages.pretrain import ENCODER_FILE, PROJECTOR_FILE
from epg.stages.settings import training_config
from epg.stages.training import drop_checkpoints, train_stage, training_job
from epg.telemetry.progress import StageReporter


def finetune(
    run: Run, objective: str, manifest: Manifest | None = None, encoder: Path | None = None
) -> StageRecord:
    """Train a generator from the pre-trained encoder and store its averaged weights.

    Args:
        run: the run.
        objective: `denoising` (diffusion model) or `consistency` (one-step model).
        manifest: the shards; default: the run's.
        encoder: folder with `encoder.safetensors` and `projector.safetensors`; default: the run's.

    Outputs: `generator` (safetensors), `series` (JSON lines), `curves` (HTML).
    """
    stage = find_stage("finetune", objective)
    manifest = manifest or stored_manifest(run)
    config = training_config(run.recipe, stage.name)
    with tempfile.TemporaryDirectory(prefix="epg-encoder-") as scratch:
        folder = encoder or stored_encoder(run, Path(scratch))
        inputs = {"shards": manifest.sha256, "encoder": file_sha256(folder / ENCODER_FILE)}

        def work(reporter: StageReporter, outputs: Outputs) -> None:
            job = training_job(
                run,
                stage.name,
                outputs,
                objective=objective,
                manifest=manifest,
                config=config,
                inputs=inputs,
                headers={"generator": _header(run, objective, manifest, inputs)},
                weights={"encoder": folder / ENCODER_FILE, "projector": folder / PROJECTOR_FILE},
            )
            trained = train_stage(job, reporter, outputs)
            outputs.metrics["parameters"] = trained.parameters["generator"]

        record = perform(run, stage, config=config, inputs=inputs, work=work, refuse_changed=True)
    drop_checkpoints(run, stage.name)
    return record


def _header(run: Run, objective: str, manifest: Manifest, inputs: dict[str, str]) -> dict[str, Any]:
    """What a generator's file says of itself; no date, so that the same training gives the same."""
    return {
        "kind": "generator",
        "objective": objective,
        "classes": manifest.classes,
        "generator_arguments": run.recipe.generator_arguments(),
        "sampling": run.recipe.sampling(objective).model_dump(mode="json"),
        "recipe": run.recipe.model_dump(mode="json"),
        "inputs": inputs,
    }


@stage_entry
def finetune_component(
    shards: Any,
    encoder: Any,
    generator: Any,
    metrics: Any,
    curves: Any,
    objective: str,
    recipe: str,
    overrides: dict[str, Any],
    store: str,
    run_name: str,
) -> None:
    """Run the stage inside a pipeline: `generator` becomes the weights' file."""
    run = open_run(recipe, overrides, store, run_name)
    manifest = Manifest.from_json(Path(shards.path).read_bytes())
    record = finetune(run, objective, manifest, Path(encoder.path))
    fetch_output(run, record, "generator", Path(generator.path))
    generator.metadata["epg"] = json.dumps(record.outputs["generator"])
    fetch_output(run, record, "curves", Path(curves.path))
    for name, value in record.metrics.items():
        metrics.log_metric(name, float(value))

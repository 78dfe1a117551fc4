"""Stage `pretrain`: the encoder learns by self-supervision (EPG, stage 1)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from epg.data.manifest import Manifest
from epg.runs.entry import open_run, stage_entry
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fetch_output
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.inputs import stored_manifest
from epg.stages.settings import training_config
from epg.stages.training import drop_checkpoints, train_stage, training_job
from epg.telemetry.progress import StageReporter

STAGE = STAGES["pretrain"]
ENCODER_FILE = "encoder.safetensors"
PROJECTOR_FILE = "projector.safetensors"


def pretrain(run: Run, manifest: Manifest | None = None) -> StageRecord:
    """Pre-train the encoder on the run's shards and store it.

    Outputs: `encoder` and, for the auxiliary term of consistency fine-tuning, `projector`
    (both safetensors, online weights), `series` (JSON lines) and `curves` (HTML).
    """
    manifest = manifest or stored_manifest(run)
    config = training_config(run.recipe, STAGE.name)
    inputs = {"shards": manifest.sha256}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        header = {"recipe": run.recipe.model_dump(mode="json"), "shards": manifest.sha256}
        arguments = {
            "encoder": run.recipe.encoder_arguments(),
            "projector": run.recipe.projector_arguments(),
        }
        job = training_job(
            run,
            STAGE.name,
            outputs,
            objective="pretrain",
            manifest=manifest,
            config=config,
            inputs=inputs,
            headers={
                kind: {"kind": kind, "arguments": arguments[kind], **header} for kind in arguments
            },
        )
        train_stage(job, reporter, outputs)

    record = perform(run, STAGE, config=config, inputs=inputs, work=work, refuse_changed=True)
    drop_checkpoints(run, STAGE.name)
    return record


@stage_entry
def pretrain_component(
    shards: Any,
    encoder: Any,
    metrics: Any,
    curves: Any,
    recipe: str,
    overrides: dict[str, Any],
    store: str,
    run_name: str,
) -> None:
    """Run the stage inside a pipeline: `encoder` becomes a folder with both weight files."""
    run = open_run(recipe, overrides, store, run_name)
    record = pretrain(run, Manifest.from_json(Path(shards.path).read_bytes()))
    folder = Path(encoder.path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fetch_output(run, record, "encoder", folder / ENCODER_FILE)
    fetch_output(run, record, "projector", folder / PROJECTOR_FILE)
    encoder.metadata["epg"] = json.dumps(record.outputs["encoder"])
    fetch_output(run, record, "curves", Path(curves.path))
    for name, value in record.metrics.items():
        metrics.log_metric(name, float(value))

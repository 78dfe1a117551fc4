"""Stage `pretrain`: the encoder learns by self-supervision (EPG, stage 1)."""

from __future__ import annotations

from epg.data.manifest import Manifest
from epg.evaluation.checks import check_data
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.changes import explain_inputs
from epg.stages.inputs import stored_manifest
from epg.stages.measured import with_measured
from epg.stages.settings import training_config
from epg.stages.training import drop_checkpoints, keep_fresh, leading, train_stage, training_job
from epg.telemetry.progress import StageReporter

STAGE = STAGES["pretrain"]


def pretrain(run: Run, shards: Manifest | None = None) -> StageRecord:
    """Pre-train the encoder on the run's shards and store it; fresh where it is switched off.

    Outputs: `encoder` and, for the auxiliary term of consistency fine-tuning, `projector`
    (both safetensors, online weights), `series` (JSON lines) and `curves` (HTML).
    """
    manifest = shards or stored_manifest(run)
    run = with_measured(run, manifest)
    counts = manifest.num_samples("train"), manifest.num_samples("held-out")
    check_data(run.recipe, *counts)  # known now, not in hours
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
        (train_stage if run.recipe.pretrain.enabled else keep_fresh)(job, reporter, outputs)

    record = perform(run, STAGE, config=config, inputs=inputs, work=work, explain=explain_inputs)
    drop_checkpoints(run, STAGE.name)
    return record


pretrain_component = Component(
    pretrain,
    takes={"shards": Manifest.from_json},
    hands_over={"encoder": ("encoder", "projector")},
    shows={"curves": "curves"},
    measures="metrics",
    around=leading,
)

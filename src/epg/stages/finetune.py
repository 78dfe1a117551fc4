"""Stage `finetune`: encoder and fresh decoder become a generator (EPG, stage 2)."""

from __future__ import annotations

from typing import Any

from epg.data.manifest import Manifest
from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import find_stage
from epg.stages.changes import explain_inputs
from epg.stages.inputs import stored_manifest, stored_output
from epg.stages.measured import with_measured
from epg.stages.settings import training_config
from epg.stages.training import drop_checkpoints, leading, train_stage, training_job
from epg.telemetry.progress import StageReporter


def finetune(
    run: Run, objective: str, shards: Manifest | None = None, encoder: HandOver | None = None
) -> StageRecord:
    """Train a generator from the pre-trained encoder and store its averaged weights.

    Args:
        run: the run.
        objective: `denoising` (diffusion model) or `consistency` (one-step model).
        shards: the manifest; default: the run's.
        encoder: `encoder` and `projector` of pre-training; default: as the run's record says.

    Outputs: `generator` (safetensors) and, for each further rate of the moving average,
    `generator-ema-<rate>`; `series` (JSON lines), `curves` (HTML).
    """
    stage = find_stage("finetune", objective)
    manifest = shards or stored_manifest(run)
    run = with_measured(run, manifest)
    config = training_config(run.recipe, stage.name)
    encoder = encoder or stored_output(run, "pretrain")
    inputs = {"shards": manifest.sha256, "encoder": encoder.sha256("encoder")}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        job = training_job(
            run,
            stage.name,
            outputs,
            objective=objective,
            manifest=manifest,
            config=config,
            inputs=inputs,
            headers=_headers(run, objective, manifest, inputs),
            weights={
                name: encoder.fetch(run.store, name, outputs.scratch / f"{name}.safetensors")
                for name in ("encoder", "projector")
            },
        )
        trained = train_stage(job, reporter, outputs)
        outputs.metrics["parameters"] = trained.parameters["generator"]

    record = perform(run, stage, config=config, inputs=inputs, work=work, explain=explain_inputs)
    drop_checkpoints(run, stage.name)
    return record


def _headers(
    run: Run, objective: str, manifest: Manifest, inputs: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """What each average's file says of itself; no date: the same training gives the same bytes."""
    averages = getattr(run.recipe, objective).averages
    header = {
        "kind": "generator",
        "objective": objective,
        "classes": manifest.classes,
        "generator_arguments": run.recipe.generator_arguments(),
        "sampling": run.recipe.sampling(objective).model_dump(mode="json"),
        "recipe": run.recipe.model_dump(mode="json"),
        "inputs": inputs,
    }
    return {kind: {**header, "ema_decay": decay} for kind, decay in averages.items()}


finetune_component = Component(
    finetune,
    takes={"shards": Manifest.from_json, "encoder": HandOver.from_json},
    hands_over={"generator": ()},  # the averages at all rates: which one is judged may change
    shows={"curves": "curves"},
    measures="metrics",
    around=leading,
)

"""Stage `finetune`: encoder and fresh decoder become a generator (EPG, stage 2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import find_stage
from epg.stages.inputs import stored_manifest, stored_output
from epg.stages.pretrain import ENCODER_FILE, PROJECTOR_FILE
from epg.stages.settings import training_config
from epg.stages.training import drop_checkpoints, train_stage
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.training.loop import Objective


def finetune(
    run: Run, objective: str, shards: Manifest | None = None, encoder: HandOver | None = None
) -> StageRecord:
    """Train a generator from the pre-trained encoder and store its averaged weights.

    Args:
        run: the run.
        objective: `denoising` (diffusion model) or `consistency` (one-step model).
        shards: the manifest; default: the run's.
        encoder: `encoder` and `projector` of pre-training; default: as the run's record says.

    Outputs: `generator` (safetensors), `series` (JSON lines), `curves` (HTML).
    """
    stage = find_stage("finetune", objective)
    manifest = shards or stored_manifest(run)
    config = training_config(run.recipe, stage.name)
    encoder = encoder or stored_output(run, "pretrain")
    inputs = {"shards": manifest.sha256, "encoder": encoder.sha256("encoder")}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        from epg.model.files import save_weights

        for name in ("encoder", "projector"):
            encoder.fetch(run.store, name, outputs.scratch / f"{name}.safetensors")
        trained, _ = train_stage(
            run,
            stage.name,
            reporter=reporter,
            outputs=outputs,
            manifest=manifest,
            optimizer=getattr(run.recipe, objective),
            config=config,
            inputs=inputs,
            build=lambda device: _build(run, objective, outputs.scratch, device),
        )
        path = outputs.scratch / "generator.safetensors"
        weights = trained.ema.state_dict()  # type: ignore[attr-defined]
        save_weights(path, weights, _header(run, objective, manifest, inputs))
        outputs.put_file("generator", path)
        outputs.metrics["parameters"] = sum(t.numel() for t in weights.values())

    record = perform(run, stage, config=config, inputs=inputs, work=work)
    drop_checkpoints(run, stage.name)
    return record


def _build(run: Run, objective: str, folder: Path, device: torch.device) -> Objective:
    from epg.model.files import load_weights
    from epg.training.finetuning import Consistency, Denoising

    weights, header = load_weights(folder / ENCODER_FILE, "encoder")
    expected = run.recipe.encoder_arguments()
    if header["arguments"] != expected:
        from epg.config.comparison import differences

        listed = "; ".join(differences(header["arguments"], expected))
        raise UserError(
            f"{folder / ENCODER_FILE}: this encoder has another shape than the recipe ({listed}): "
            "pre-train with this recipe, or use the encoder's own"
        )
    if objective == "denoising":
        return Denoising(run.recipe, weights, device)
    projector, _ = load_weights(folder / PROJECTOR_FILE, "projector")
    return Consistency(run.recipe, weights, projector, device)


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


finetune_component = Component(
    finetune,
    takes={"shards": Manifest.from_json, "encoder": HandOver.from_json},
    hands_over={"generator": ("generator",)},
    shows={"curves": "curves"},
    measures="metrics",
)

"""Stage `register`: a generator that passed its gate goes into the registry, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from epg.config.loading import dump_recipe
from epg.config.recipe import Recipe
from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.registry.base import EVALUATION_FILE, WEIGHTS_FILE, averaged_file, model_name
from epg.runs.entry import Component
from epg.runs.handover import HandOver, fetch_output
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, load_record, require_record
from epg.runs.run import Run
from epg.runs.versions import versions
from epg.stages.catalog import find_stage
from epg.stages.inputs import stored_manifest, stored_output
from epg.telemetry.progress import StageReporter


def register(
    run: Run, objective: str, generator: HandOver | None = None, version: str | None = None
) -> StageRecord:
    """Register `<recipe name>-<objective>`; the same weights a second time change nothing.

    Args:
        run: the run.
        objective: `denoising` or `consistency`.
        generator: where the weights lie; default: as the run's record says.
        version: default: the next free of v1, v2, ...

    Metrics of the record: `model`, `version`, `digest` (SHA-256 of the weights), `uri`.

    Raises:
        UserError: the gate did not let it pass, or `version` holds other weights.
    """
    stage = find_stage("register", objective)
    evaluation = require_record(run, f"evaluate-{objective}")
    gate = require_record(run, f"gate-{objective}")
    if gate.metrics.get("verdict") != "pass":
        raise UserError(
            f"{objective} model of run {run.name!r} is not registered: its gate says "
            f"{gate.metrics.get('verdict')!r} ({gate.metrics.get('reason')}); train longer or "
            f"change gate.{objective} in the recipe"
        )
    weights = generator or stored_output(run, f"finetune-{objective}")
    judged = getattr(run.recipe, objective).judged
    inputs = {
        "generator": weights.sha256(judged),
        "evaluation": evaluation.fingerprint,
        "gate": gate.fingerprint,
    }

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        del reporter
        path = weights.fetch(run.store, judged, outputs.scratch / WEIGHTS_FILE)
        extra = _averages(run, objective, weights, outputs.scratch)
        _register(run, objective, path, evaluation, version, outputs, extra)

    return perform(
        run,
        stage,
        config={"model": model_name(run.recipe.name, objective), "version": version},
        inputs=inputs,
        work=work,
        always=not _still_registered(run, stage.name),
    )


def _still_registered(run: Run, stage: str) -> bool:
    """Tell whether what an earlier record speaks of is in the registry (it may be removed)."""
    from epg.registry import open_registry

    record = load_record(run, stage)
    if record is None:
        return False
    named = (record.metrics["version"], record.metrics["digest"])
    versions = open_registry(run.registry).list(record.metrics["model"])
    return named in [(entry.version, entry.digest) for entry in versions]


def _averages(run: Run, objective: str, weights: HandOver, scratch: Path) -> dict[str, Path]:
    """Fetch the averages at the other rates than the one that was judged."""
    settings = getattr(run.recipe, objective)
    return {
        file: weights.fetch(run.store, kind, scratch / file)
        for kind, decay in settings.averages.items()
        if kind != settings.judged
        if kind in weights.objects and (file := averaged_file(decay))
    }


def _register(
    run: Run,
    objective: str,
    weights: Path,
    evaluation: StageRecord,
    version: str | None,
    outputs: Outputs,
    extra: dict[str, Path],
) -> None:
    from epg.registry import open_registry

    if "grid" in evaluation.outputs:
        extra["grid.png"] = fetch_output(run, evaluation, "grid", outputs.scratch / "grid.png")
    if "metrics" in evaluation.outputs:  # with the protocol: a later model is compared with it
        path = outputs.scratch / EVALUATION_FILE
        extra[EVALUATION_FILE] = fetch_output(run, evaluation, "metrics", path)
    registered = open_registry(run.registry).register(
        model_name(run.recipe.name, objective),
        weights,
        recipe_yaml=dump_recipe(run.recipe),
        metrics=evaluation.metrics,
        card=_card(run, objective, evaluation),
        extra=extra,
        version=version,
    )
    outputs.metrics.update(
        model=registered.model,
        version=registered.version,
        digest=registered.digest,
        uri=registered.uri,
    )
    outputs.details["created"] = registered.created


def _card(run: Run, objective: str, evaluation: StageRecord) -> str:
    from epg.registry.card import CardFacts, render_card

    manifest = stored_manifest(run)
    return render_card(
        CardFacts(
            model=model_name(run.recipe.name, objective),
            objective=objective,
            recipe_name=run.recipe.name,
            description=run.recipe.description,
            data=_data_facts(manifest),
            settings=_settings(run.recipe, objective),
            metrics=evaluation.metrics,
            features=evaluation.details["feature_networks"],
            versions={name: versions().get(name, "unknown") for name in ("epg", "torch")},
        )
    )


def _data_facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "source": manifest.source,
        "image_size": manifest.image_size,
        "channels": manifest.channels,
        "classes": manifest.classes,
        "train": manifest.num_samples("train"),
        "held_out": manifest.num_samples("held-out"),
    }


def _settings(recipe: Recipe, objective: str) -> dict[str, Any]:
    """What was trained how, for the card's table."""
    model, training = recipe.model, getattr(recipe, objective)
    settings = {
        "seed": recipe.seed,
        "encoder": f"{model.depth} blocks, width {model.embed_dim}, {model.num_heads} heads, "
        f"patches of {model.patch_size}×{model.patch_size}",
        "pre-training": f"{recipe.pretrain.steps:,} steps of {recipe.pretrain.batch_size} images",
        "fine-tuning": f"{training.steps:,} steps of {training.batch_size} images",
    }
    if objective == "denoising":
        settings["sampler"] = (
            f"{training.solver.title()}, {training.sampling_steps} noise levels, "
            f"guidance {training.guidance_scale:g} "
            f"for sigma from {training.guidance_interval[0]:g} to {training.guidance_interval[1]:g}"
        )
    else:
        steps = training.sampling_steps
        settings["sampler"] = "one step" if steps == 1 else f"{steps} steps"
    if len(training.ema_decays) > 1:
        rates = ", ".join(f"{decay:g}" for decay in training.ema_decays)
        judged = training.averages[training.judged]
        settings["averages of the weights"] = f"{rates}; {judged:g} was judged"
    return settings


register_component = Component(
    register, takes={"generator": HandOver.from_json}, follows=("metrics",), returns="uri"
)

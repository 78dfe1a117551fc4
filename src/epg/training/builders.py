"""The one table of what can be trained: an objective's name and how it is built from a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from epg.config.comparison import differences
from epg.errors import UserError
from epg.model.files import load_weights
from epg.model.precision import Precision
from epg.training.finetuning import Consistency, Denoising
from epg.training.job import TrainingJob
from epg.training.objective import Objective
from epg.training.pretraining import Pretraining
from epg.training.world import World

Builder = Callable[[TrainingJob, World, Precision], Objective]


def _pretraining(job: TrainingJob, world: World, precision: Precision) -> Objective:
    return Pretraining(job.recipe, world.device, world, precision)


def _denoising(job: TrainingJob, world: World, precision: Precision) -> Objective:
    return Denoising(job.recipe, _stage1(job, "encoder"), world.device, world, precision)


def _consistency(job: TrainingJob, world: World, precision: Precision) -> Objective:
    encoder, projector = _stage1(job, "encoder"), _stage1(job, "projector")
    return Consistency(job.recipe, encoder, projector, world.device, world, precision)


BUILDERS: dict[str, Builder] = {
    "pretrain": _pretraining,
    "denoising": _denoising,
    "consistency": _consistency,
}


def _stage1(job: TrainingJob, kind: str) -> dict[str, Tensor]:
    """Return the encoder's or the projector's weights. Raises `UserError` unless they fit."""
    path: Path = job.weights[kind]
    weights, header = load_weights(path, kind)
    recipe = job.recipe
    shapes = {"encoder": recipe.encoder_arguments, "projector": recipe.projector_arguments}
    listed = "; ".join(differences(_section(header, "arguments"), shapes[kind]()))
    if listed:
        raise UserError(
            f"{path}: this {kind} has another shape than the recipe ({listed}): "
            f"pre-train with this recipe, or use the {kind}'s own"
        )
    then = _section(header, "recipe")
    now = recipe.model_dump(mode="json")
    if then and (listed := "; ".join(differences(_inputs(then), _inputs(now)))):
        raise UserError(
            f"{path}: this {kind} was trained on other inputs than the recipe's ({listed}): "
            f"pre-train with this recipe, or use the {kind}'s own"
        )
    return weights


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _inputs(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a network's numbers mean by a recipe: how pixels are normalised, and the levels."""
    data = _section(recipe, "data")
    return {
        "data": {name: data.get(name) for name in ("mean", "std")},
        "diffusion": _section(recipe, "diffusion"),
    }

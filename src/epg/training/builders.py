"""The one table of what can be trained: an objective's name and how it is built from a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    return Denoising(job.recipe, _encoder(job), world.device, world, precision)


def _consistency(job: TrainingJob, world: World, precision: Precision) -> Objective:
    projector, _ = load_weights(job.weights["projector"], "projector")
    return Consistency(job.recipe, _encoder(job), projector, world.device, world, precision)


BUILDERS: dict[str, Builder] = {
    "pretrain": _pretraining,
    "denoising": _denoising,
    "consistency": _consistency,
}


def _encoder(job: TrainingJob) -> dict[str, Tensor]:
    """Return the encoder's weights. Raises `UserError` unless they fit the recipe."""
    path: Path = job.weights["encoder"]
    weights, header = load_weights(path, "encoder")
    arguments = header.get("arguments")
    known = arguments if isinstance(arguments, dict) else {}
    listed = "; ".join(differences(known, job.recipe.encoder_arguments()))
    if listed:
        raise UserError(
            f"{path}: this encoder has another shape than the recipe ({listed}): "
            "pre-train with this recipe, or use the encoder's own"
        )
    return weights

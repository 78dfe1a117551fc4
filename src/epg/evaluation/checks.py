"""What can be known to be wrong with an evaluation before anything long starts.

Light to import: a stage asks before it knows whether there is anything to compute.
"""

from __future__ import annotations

from epg.config.recipe import Recipe
from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.evaluation.features.inception_weights import require_inception_weights


def check_evaluation(recipe: Recipe, manifest: Manifest) -> None:
    """Refuse FID without the right Inception weights, and more neighbours than there are images.

    Raises:
        UserError: one line that says what to do.
    """
    if "inception" in recipe.evaluate.networks:
        require_inception_weights()
    check_neighbours(recipe, manifest.num_samples("held-out"))


def check_neighbours(recipe: Recipe, held_out: int) -> None:
    """Refuse more neighbours than there are images. Raises `UserError`.

    Args:
        recipe: says how many are asked for.
        held_out: images of the held-out split.
    """
    evaluate = recipe.evaluate
    most = min(evaluate.num_samples, held_out) - 1
    if evaluate.neighbours > most:
        mend = f"use --set evaluate.neighbours={most}, or " if most >= 1 else ""
        raise UserError(
            f"evaluate.neighbours is {evaluate.neighbours}: it must be below the number of images "
            f"compared (evaluate.num_samples is {evaluate.num_samples}, the held-out split has "
            f"{held_out}): {mend}hold out more images by data.held_out_fraction"
        )

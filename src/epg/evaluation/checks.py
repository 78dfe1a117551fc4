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
    evaluate, held_out = recipe.evaluate, manifest.num_samples("held-out")
    if "inception" in evaluate.networks:
        require_inception_weights()
    if evaluate.neighbours >= min(evaluate.num_samples, held_out):
        raise UserError(
            f"evaluate.neighbours is {evaluate.neighbours}: it must be below the number of images "
            f"compared (evaluate.num_samples is {evaluate.num_samples}, the held-out split has "
            f"{held_out})"
        )

"""What can be known to be wrong with an evaluation before anything long starts.

Light to import: a stage asks before it knows whether there is anything to compute.
"""

from __future__ import annotations

from collections.abc import Mapping

from epg.config.recipe import Recipe
from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.evaluation.features.weights import WIDTHS, require_weights
from epg.evaluation.reference_place import find_reference

_SVC_BYTES = 1024**3  # of training pixels as float64, all in memory at once


def check_evaluation(recipe: Recipe, manifest: Manifest, root: str) -> None:
    """Refuse networks whose weights are not here, and what `check_data` refuses.

    Args:
        recipe: says which networks, and what is compared.
        manifest: of the real images.
        root: URI of the store of the runs, where weights may lie.

    Raises:
        UserError: one line that says what to do.
    """
    require_weights(recipe.evaluate.networks, root)
    if recipe.evaluate.reference_file is not None:
        find_reference(recipe.evaluate.reference_file, root)
    check_data(recipe, manifest.num_samples("train"), manifest.num_samples("held-out"))


def check_data(recipe: Recipe, train: int, held_out: int) -> None:
    """Refuse a comparison that these numbers of images do not bear. Raises `UserError`.

    Args:
        recipe: says what is compared.
        train: images of the training split.
        held_out: images of the held-out split.
    """
    check_count(
        f"evaluate.num_samples is {recipe.evaluate.num_samples}",
        recipe.evaluate.num_samples,
        {kind: WIDTHS[kind] for kind in recipe.evaluate.networks},
        few=recipe.evaluate.few,
        mend="ask for more, or say evaluate.few=true",
    )
    check_neighbours(recipe, train if recipe.evaluate.reference == "train" else held_out)
    check_svc(recipe, train)


def check_count(what: str, count: int, widths: Mapping[str, int], *, few: bool, mend: str) -> None:
    """Refuse no more images than features. Raises `UserError`.

    Args:
        what: says what the images are, at the front of the line.
        count: images.
        widths: name of each network -> its features.
        few: nothing is refused: whoever asks knows how little it says.
        mend: what to do.
    """
    for kind, width in widths.items():
        if count <= width and not few:
            raise UserError(
                f"{what}: {count:,} images are no more than the {width:,} features of {kind}: a "
                f"distance of so few says little; {mend} to measure them all the same"
            )


def check_neighbours(recipe: Recipe, real: int) -> None:
    """Refuse more neighbours than there are images. Raises `UserError`.

    Args:
        recipe: says how many are asked for.
        real: images of the split that is compared with.
    """
    evaluate = recipe.evaluate
    most = min(evaluate.num_samples, real) - 1
    if evaluate.neighbours > most:
        mend = f"use --set evaluate.neighbours={most}, or " if most >= 1 else ""
        raise UserError(
            f"evaluate.neighbours is {evaluate.neighbours}: it must be below the number of images "
            f"compared (evaluate.num_samples is {evaluate.num_samples}, the "
            f"{evaluate.reference} split has {real}): {mend}hold out more images by "
            "data.held_out_fraction"
        )


def check_svc(recipe: Recipe, train: int) -> None:
    """Refuse the judge on raw pixels where it cannot learn or would take days. Raises `UserError`.

    Args:
        recipe: says whether it is asked for.
        train: images of the training split.
    """
    if recipe.evaluate.svc is None:
        return
    leave_out = "leave it out: --set evaluate.svc=null"
    data = recipe.data
    if data.class_count < 2:
        raise UserError(
            f"evaluate.svc tells classes apart, and data.num_classes is {data.num_classes}: "
            f"{leave_out}"
        )
    size = 8 * train * data.channels * data.image_size**2
    if size > _SVC_BYTES:
        raise UserError(
            f"evaluate.svc is for small data: {train:,} training images of {data.image_size} x "
            f"{data.image_size} x {data.channels} take {size / 1024**3:,.1f} GiB of memory as its "
            f"input, at most {_SVC_BYTES / 1024**3:.0f} is allowed: {leave_out}"
        )

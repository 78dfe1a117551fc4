"""What a recipe leaves to the data: how many classes there are, and the pixels' mean and deviation.

They are known once the images are sharded, and stand in the manifest; from there on a stage works
with a recipe that says them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from epg.config.recipe import Recipe
from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.runs.run import Run
from epg.stages.inputs import stored_manifest


def with_measured(run: Run, manifest: Manifest | None = None) -> Run:
    """Return the run with a recipe that leaves nothing to the data.

    Args:
        run: the run.
        manifest: of its shards; default: the stored one, read only where something is open.

    Raises:
        UserError: there are no shards, or they were made before such things were measured.
    """
    if run.recipe.data.is_settled:
        return run
    return replace(run, recipe=settled(run.recipe, manifest or stored_manifest(run)))


def settled(recipe: Recipe, manifest: Manifest) -> Recipe:
    """Return the recipe with what the manifest says of the data, where it says nothing itself.

    Raises:
        UserError: the manifest does not say it.
    """
    data = recipe.data
    found: dict[str, Any] = {}
    if data.num_classes is None:
        found["num_classes"] = len(manifest.classes)
    for name in ("mean", "std"):
        if getattr(data, name) is None:
            found[name] = _per_channel(manifest, name)
    return recipe.model_copy(update={"data": data.model_copy(update=found)})


def _per_channel(manifest: Manifest, name: str) -> tuple[float, ...]:
    """Return the measured `mean` or `std`. Raises `UserError` where there is none."""
    pixels = manifest.report.get("pixels")
    values = pixels.get(name) if isinstance(pixels, dict) else None
    right = isinstance(values, list) and len(values) == manifest.channels
    if not right or not all(type(v) in (int, float) and 0 <= v <= 1 for v in values or ()):
        raise UserError(
            f"data.{name} is left to the data, but these shards of {manifest.source} do not say "
            f"it: make them again with `--from shard`, or give it by --set data.{name}=[...]"
        )
    least = 1e-3 if name == "std" else 0.0  # images of one colour have no deviation
    return tuple(max(float(value), least) for value in values or ())

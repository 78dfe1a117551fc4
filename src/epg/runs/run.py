"""A named run of one recipe, and the places where its results lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.errors import UserError
from epg.store import Store, open_store

RECIPE_KEY = "recipe.yaml"
#: Id of the pipeline run that a step belongs to; not set outside a cluster.
PIPELINE_RUN_VARIABLE = "EPG_PIPELINE_RUN"
#: In a run name, what the pipeline run's id takes the place of: recurring runs have one name.
RUN_PLACE = "{run}"
#: Folder of a store's root for images that are measured without a run.
MEASURED = "measured"
#: Folders of a store's root that are no runs.
_TAKEN = {
    "registry": "models are registered",
    "weights": "weights of feature networks lie",
    "statistics": "statistics of real images are kept",
    MEASURED: "measurements of given images go on after a kill",
}


@dataclass(frozen=True)
class Run:
    """One named run of one recipe, and the places where its results lie."""

    recipe: Recipe
    store: Store  # rooted at <root>/<run name>
    registry: Store  # rooted at <root>/registry
    name: str
    store_uri: str  # the root, as given

    @classmethod
    def open(
        cls,
        recipe: str,
        overrides: Mapping[str, Any] | None,
        store: str,
        run_name: str,
    ) -> Run:
        """Load and check the recipe, and open the run's place in the store."""
        run_name = own_name(run_name)
        place = run_store(store, run_name)
        return cls(
            recipe=load_recipe(recipe, overrides),
            store=place,
            registry=open_store(store).sub("registry"),
            name=run_name,
            store_uri=store,
        )


def run_store(store: str, run_name: str) -> Store:
    """Open a run's place in a store, whatever its recipe.

    Raises:
        UserError: the name or the URI is none.
    """
    return open_store(store).sub(check_run_name(own_name(run_name)))


def pipeline_run() -> str:
    """Return the id of the pipeline run that this step belongs to; empty outside a cluster."""
    return "".join(os.environ.get(PIPELINE_RUN_VARIABLE, "").split())


def own_name(name: str) -> str:
    """Return a run name with the first 8 characters of the pipeline run's id for `{run}`."""
    return name.replace(RUN_PLACE, pipeline_run()[:8] or RUN_PLACE)


def check_run_name(name: str) -> str:
    """Return a name unchanged, or refuse it: no folder, no object key, or the registry's."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    if not name or len(name) > 100 or set(name) - allowed or name[0] in ".-":
        raise UserError(
            f"run name {name!r}: use 1 to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter, a digit or '_'"
        )
    if name in _TAKEN:
        raise UserError(f"run name {name!r} is where {_TAKEN[name]}: choose another one")
    return name

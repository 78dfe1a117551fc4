"""A named run of one recipe, and the places where its results lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.errors import UserError
from epg.store import Store, open_store

RECIPE_KEY = "recipe.yaml"


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
    check_run_name(run_name)
    return open_store(store).sub(run_name)


def check_run_name(name: str) -> None:
    """Refuse names that are no folder, no object key, or taken by the registry."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    if not name or len(name) > 100 or set(name) - allowed or name[0] in ".-":
        raise UserError(
            f"run name {name!r}: use 1 to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter, a digit or '_'"
        )
    if name == "registry":
        raise UserError("run name 'registry' is where models are registered: choose another one")

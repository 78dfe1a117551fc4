"""Finished models by name and version: weights, recipe, metrics and a card, in any store.

    <model>/<version>/model.safetensors, recipe.yaml, metrics.json, README.md, ..., model.json

`model.json` is written last: where it exists, the version is complete and never changes.
"""

from epg.registry.entry import Registered
from epg.registry.lookup import fetch_model, list_models, resolve
from epg.registry.registering import register

__all__ = ["Registered", "fetch_model", "list_models", "register", "resolve"]

"""Finished models by name and version: weights, recipe, metrics and a card.

`open_registry` is the way in; `Registry` is what it gives, wherever the models are kept.
"""

from __future__ import annotations

from epg.registry.base import Registered, Registry
from epg.store import Store, open_store

__all__ = ["Registered", "Registry", "open_registry"]


def open_registry(place: str | Store) -> Registry:
    """Open the registry in a store, or in the store that a URI names.

    Raises:
        UserError: the URI names no store.
    """
    from epg.registry.files import FileRegistry

    return FileRegistry(open_store(place) if isinstance(place, str) else place)

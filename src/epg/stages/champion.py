"""The registered model that a new one is held against, with the figures it was registered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epg.documents import DocumentError, fields, parse_object
from epg.errors import UserError
from epg.registry.base import EVALUATION_FILE, model_name
from epg.runs.run import Run
from epg.store.reading import read_document


@dataclass(frozen=True)
class Champion:
    """The newest registered version of a model.

    Attributes:
        name: `NAME:VERSION`.
        digest: SHA-256 of the file with its figures; empty where it has none.
        metrics: figures by name.
        details: how they were measured.
    """

    name: str
    digest: str
    metrics: Mapping[str, Any]
    details: Mapping[str, Any]


def find_champion(run: Run, objective: str, weights: str) -> Champion | None:
    """Return the newest version of the recipe's model, or None where none is registered.

    Args:
        run: says whose registry, and which model.
        objective: likewise.
        weights: SHA-256 of the model that is judged: nobody is its own champion.

    Raises:
        UserError: the champion's figures cannot be read.
    """
    from epg.registry import open_registry

    versions = open_registry(run.registry).list(model_name(run.recipe.name, objective))
    others = [entry for entry in versions if entry.digest != weights]
    if not others:
        return None
    newest = others[-1]
    label = f"{newest.model}:{newest.version}"
    if EVALUATION_FILE not in newest.files:  # registered by an earlier epg
        return Champion(label, "", {}, {})
    digest = str(newest.files[EVALUATION_FILE]["sha256"])

    def read(data: bytes) -> Champion:
        content = fields(parse_object(data), {"objective": str, "metrics": dict, "details": dict})
        return Champion(label, digest, content["metrics"], content["details"])

    key = f"{newest.model}/{newest.version}/{EVALUATION_FILE}"
    try:
        return read_document(run.registry, key, read)
    except DocumentError as error:
        raise UserError(
            f"{run.registry.uri}/{key}: the champion's figures cannot be read ({error}): move "
            f"{newest.uri} away, or take the bound `champion` out of gate.{objective}"
        ) from error

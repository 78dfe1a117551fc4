"""What a stage reads when nobody hands it over: the results of the stages before, in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from epg.data.manifest import Manifest
from epg.documents import DocumentError
from epg.errors import UserError
from epg.runs.handover import HandOver
from epg.runs.record import StageRecord, require_record
from epg.runs.run import Run
from epg.store.reading import read_document

if TYPE_CHECKING:
    from epg.evaluation.features.base import FeatureNetwork, Statistics


def stored_manifest(run: Run) -> Manifest:
    """Return the manifest of the run's shards. Raises `UserError` where it is gone or altered."""
    record = require_record(run, "shard")
    try:
        return Manifest.from_json(manifest_bytes(run, record))
    except DocumentError as error:
        raise UserError(f"{error}; `epg shard` makes it again, and keeps whole shards") from error


def manifest_bytes(run: Run, record: StageRecord) -> bytes:
    """Return the manifest that a record of `shard` names.

    Raises:
        ObjectNotFound: it is gone.
        DocumentError: it was altered.
    """
    entry = HandOver.of(run, record, "manifest").objects["manifest"]

    def read(data: bytes) -> bytes:
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise DocumentError(
                f"{entry.uri}: SHA-256 is {digest[:12]}..., expected {entry.sha256[:12]}...: the "
                "manifest was altered"
            )
        return data

    return read_document(run.store, entry.key, read)


def stored_output(run: Run, stage: str) -> HandOver:
    """Return what a finished stage of the run would hand over."""
    return HandOver.of(run, require_record(run, stage))


def stored_statistics(
    run: Run, statistics: HandOver, networks: Mapping[str, FeatureNetwork], scratch: Path
) -> dict[str, Statistics]:
    """Return what each network sees in real images; local copies go to `scratch`.

    Raises:
        UserError: they are damaged, or of another network.
    """
    from epg.evaluation.features.base import Statistics

    found: dict[str, Statistics] = {}
    for kind, network in networks.items():
        name = f"statistics-{kind}"
        path = statistics.fetch(run.store, name, scratch / f"{name}.npz")
        found[kind] = Statistics.from_npz(path, network, statistics.objects[name].uri)
    return found


def stored_classifier(run: Run, statistics: HandOver, scratch: Path) -> Path | None:
    """Return a local copy of the weights of the run's own judge, if its recipe asks for it."""
    if "classifier" not in run.recipe.evaluate.networks:
        return None
    return statistics.fetch(run.store, "classifier", scratch / "classifier.safetensors")

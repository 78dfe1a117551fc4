"""What a stage reads when nobody hands it over: the results of the stages before, in the store."""

from __future__ import annotations

from epg.data.manifest import Manifest
from epg.runs.handover import HandOver
from epg.runs.record import require_record
from epg.runs.run import Run


def stored_manifest(run: Run) -> Manifest:
    """Return the manifest of the run's shards."""
    record = require_record(run, "shard")
    return Manifest.from_json(run.store.get_bytes(record.outputs["manifest"]["key"]))


def stored_output(run: Run, stage: str) -> HandOver:
    """Return what a finished stage of the run would hand over."""
    return HandOver.of(run, require_record(run, stage))

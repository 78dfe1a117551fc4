"""What a finished stage leaves behind: a record, written after all outputs are in the store.

Where the record exists, the stage is done. Its fingerprint covers what the result depends on (the
parts of the recipe, the digests of the inputs, the version of `epg`), so that the same command
reuses it and a changed one does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epg import __version__
from epg.errors import UserError
from epg.runs.run import Run, pipeline_run
from epg.store.base import ObjectNotFound
from epg.store.digest import file_sha256
from epg.store.held import HeldStore


#: What to do where a step before went by, and its results are not there.
CACHE_ADVICE = (
    "Kubeflow's cache, which does not look whether a result is still there, has handed it over: "
    "submit the run again with --no-cache"
)


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage leaves behind; JSON under `stages/<stage>.json`."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    details: dict[str, Any]
    started: str
    finished: str
    duration_seconds: float
    versions: dict[str, Any]
    status: str = "succeeded"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> StageRecord:
        """Read a record. Raises `UserError` naming `where` when it is damaged."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{where}: not a stage record ({error}); delete it and run the stage again"
            ) from error


@dataclass
class Outputs:
    """Where a working stage puts its results; they are stored before the record is.

    `store` takes nothing once somebody else has taken the stage over.
    """

    stage: str
    store: HeldStore
    scratch: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put_file(self, name: str, path: Path, *, key: str | None = None) -> None:
        """Store a local file as the output `name` under `<stage>/<file name>`."""
        key = key or f"{self.stage}/{path.name}"
        self.store.put_file(key, path)
        self.stored[name] = {"key": key, "sha256": file_sha256(path), "size": path.stat().st_size}

    def put_bytes(self, name: str, filename: str, data: bytes, *, key: str | None = None) -> None:
        """Store bytes as the output `name` under `<stage>/<filename>`."""
        key = key or f"{self.stage}/{filename}"
        self.store.put_bytes(key, data)
        digest = hashlib.sha256(data).hexdigest()
        self.stored[name] = {"key": key, "sha256": digest, "size": len(data)}


def fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Digest of everything that a stage's result depends on."""
    content = {"stage": stage, "epg": __version__, "config": config, "inputs": inputs}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def record_key(stage: str) -> str:
    """Key of a stage's record within its run."""
    return f"stages/{stage}.json"


def load_record(run: Run, stage: str) -> StageRecord | None:
    """Return the record of a finished stage, or None."""
    key = record_key(stage)
    try:
        return StageRecord.from_json(run.store.get_bytes(key), f"{run.store.uri}/{key}")
    except ObjectNotFound:
        return None


def require_record(run: Run, stage: str) -> StageRecord:
    """Return the record of a finished stage, or say which command makes it."""
    record = load_record(run, stage)
    if record is None and pipeline_run():
        raise UserError(
            f"stage {stage!r} of run {run.name!r} is not in {run.store_uri}, though its step went "
            f"by: {CACHE_ADVICE}"
        )
    if record is None:
        raise UserError(
            f"stage {stage!r} of run {run.name!r} is not done in {run.store_uri}: "
            f"run it first (`epg run --recipe {run.recipe.name} --run-name {run.name}` does all)"
        )
    return record


def outputs_exist(run: Run, record: StageRecord) -> bool:
    """Tell whether every output of a record is still in the store, in its size."""
    return all(run.store.size(e["key"]) == e["size"] for e in record.outputs.values())

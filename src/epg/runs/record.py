"""What a finished stage leaves behind: a record, written after all outputs are in the store.

Where the record exists, the stage is done. Its fingerprint covers what the result depends on (the
parts of the recipe, the digests of the inputs, the version of `epg`), so that the same command
reuses it and a changed one does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from epg import __version__
from epg.documents import (
    SEAL,
    DocumentError,
    Kind,
    fields,
    is_sha256,
    parse_object,
    sealed,
    unseal,
)
from epg.errors import UserError
from epg.runs.run import Run, pipeline_run
from epg.store.base import ObjectNotFound
from epg.store.digest import file_sha256
from epg.store.held import HeldStore
from epg.store.keys import check_key
from epg.store.reading import read_document

_FIELDS: dict[str, Kind] = {
    "stage": str,
    "fingerprint": str,
    "config": dict,
    "inputs": dict,
    "outputs": dict,
    "metrics": dict,
    "details": dict,
    "started": str,
    "finished": str,
    "duration_seconds": float,
    "versions": dict,
}
_OUTPUT: dict[str, Kind] = {"key": str, "sha256": str, "size": int}

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

    def to_json(self) -> bytes:
        """Return the object's content, sealed, which `from_json` reads back."""
        return json.dumps(sealed(asdict(self)), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StageRecord:
        """Read a record; one of version 0.1 has no seal. Raises `DocumentError` for any other."""
        optional: dict[str, Kind] = {"status": str, SEAL: str}
        content = fields(parse_object(data, nan=True), _FIELDS, optional)
        made_by = content["versions"].get("epg")
        old = not isinstance(made_by, str) or made_by.startswith("0.1.")
        record = cls(**unseal(content, required=not old))
        for name, entry in record.outputs.items():
            if not is_output(entry):
                raise DocumentError(f"output {name[:40]!r} is no key, sha256 and size")
        if not all(isinstance(digest, str) for digest in record.inputs.values()):
            raise DocumentError("an input is no digest")
        for moment in (record.started, record.finished):
            _check_time(moment)
        return record


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

    def put_file(self, name: str, path: Path) -> None:
        """Store a local file as the output `name` under `<stage>/<file name>`."""
        key = f"{self.stage}/{path.name}"
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


def is_output(entry: object) -> bool:
    """Tell whether this is an entry of a record's outputs: a key, a SHA-256 and a size."""
    try:
        content = fields(entry, _OUTPUT)
        check_key(content["key"])
    except (DocumentError, UserError):
        return False
    return is_sha256(content["sha256"]) and content["size"] >= 0


def _check_time(text: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise DocumentError(f"{text[:40]!r} is no moment")


def record_key(stage: str) -> str:
    """Key of a stage's record within its run."""
    return f"stages/{stage}.json"


def load_record(run: Run, stage: str) -> StageRecord | None:
    """Return the record of a finished stage, or None.

    Raises:
        UserError: it is damaged, or not that stage's.
    """
    key = record_key(stage)

    def read(data: bytes) -> StageRecord:
        record = StageRecord.from_json(data)
        if record.stage != stage:
            raise DocumentError(f"it is that of stage {record.stage[:40]!r}")
        return record

    try:
        return read_document(run.store, key, read)
    except ObjectNotFound:
        return None
    except DocumentError as error:
        raise UserError(
            f"{run.store.uri}/{key}: not a stage record: {error}; put back a copy of it if there "
            f"is one, or do that stage and all after it again with `--from {stage}`"
        ) from error


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

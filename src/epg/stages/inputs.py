"""What a stage reads when nobody hands it over: the results of the stages before, in the store."""

from __future__ import annotations

from pathlib import Path

from epg.data.manifest import Manifest
from epg.runs.record import fetch_output, require_record
from epg.runs.run import Run


def stored_manifest(run: Run) -> Manifest:
    """Return the manifest of the run's shards."""
    record = require_record(run, "shard")
    return Manifest.from_json(run.store.get_bytes(record.outputs["manifest"]["key"]))


def stored_encoder(run: Run, folder: Path) -> Path:
    """Copy the pre-trained encoder and its projector into `folder`; return it."""
    record = require_record(run, "pretrain")
    for name in ("encoder", "projector"):
        fetch_output(run, record, name, folder / f"{name}.safetensors")
    return folder


def stored_generator(run: Run, objective: str, folder: Path) -> Path:
    """Copy the generator of an objective into `folder`; return the file."""
    record = require_record(run, f"finetune-{objective}")
    return fetch_output(run, record, "generator", folder / "generator.safetensors")

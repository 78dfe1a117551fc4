"""One small object of every kind that `epg` stores and reads back, and how it is read."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from epg.data.manifest import Manifest, ShardInfo
from epg.data.reader import ShardReader
from epg.data.shard_format import END, encode_sample, sample_key
from epg.data.shard_note import ShardNote
from epg.documents import DocumentError
from epg.errors import UserError
from epg.model.files import load_weights, save_weights
from epg.registry import open_registry
from epg.runs.handover import HandOver, StoredObject
from epg.runs.record import StageRecord, load_record
from epg.runs.run import Run
from epg.stages.findings import _failure
from epg.store.lease import Holder
from epg.training.checkpoints import Checkpoints

MOMENT = "2026-01-31T12:00:00+00:00"
IMAGES = np.arange(2 * 2 * 2, dtype=np.uint8).reshape(2, 2, 2, 1)
#: What a reader may say of garbage; anything else is a fault of ours.
REFUSALS = (UserError, DocumentError)
#: Names of `kinds`.
KINDS = (
    *("stage record", "hand-over", "manifest", "note of a shard", "lease", "failure"),
    *("registry entry", "registered weights", "checkpoint's manifest.json"),
    *("checkpoint's state-00000.safetensors", "checkpoint's series.jsonl", "weight file", "shard"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of stored object: what is in a whole one, and `read`, called with other bytes."""

    name: str
    content: bytes
    read: Callable[[bytes], Any]

    @functools.cached_property
    def value(self) -> Any:
        """What the whole object says."""
        return self.read(self.content)


def record() -> StageRecord:
    """The record of a stage, with numbers of all sorts."""
    return StageRecord(
        stage="evaluate-denoising",
        fingerprint="ab" * 32,
        config={"seed": 0, "évaluation": {"k": [1, 2.5, None, True]}},
        inputs={"shards": "cd" * 32},
        outputs={"grid": {"key": "evaluate/grid.png", "sha256": "ef" * 32, "size": 10}},
        metrics={"svc_agreement": 0.1, "frechet_distance": 1e-05, "nfe": 75, "bad": float("inf")},
        details={"classes": ["a", "ü"]},
        started=MOMENT,
        finished=MOMENT,
        duration_seconds=1.5,
        versions={"epg": "0.2.0"},
    )


def shard() -> bytes:
    """A tar of two samples."""
    samples = (encode_sample(sample_key("train", i, i), IMAGES[i], i) for i in range(2))
    return b"".join(samples) + END


def manifest() -> Manifest:
    """The manifest of that one shard."""
    data = shard()
    info = ShardInfo("s/train-000000.tar", len(data), hashlib.sha256(data).hexdigest(), 2)
    return Manifest(
        source="digits",
        image_size=2,
        channels=1,
        classes=["a", "b"],
        splits={"train": [info], "held-out": []},
        class_counts={"train": [1, 1], "held-out": [0, 0]},
        report={"skipped": {}},
    )


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind, each with a place of its own under `folder`."""
    makers = (
        *(_records, _hand_overs, _manifests, _notes, _leases, _failures),
        *(_entries, _registered_weights, _checkpoint_manifests, _checkpoint_tensors),
        *(_checkpoint_series, _weights, _shards),
    )
    made = [make(Path(tempfile.mkdtemp(dir=folder))) for make in makers]
    return {kind.name: kind for kind in made}


def _records(folder: Path) -> Kind:
    run = Run.open("smoke", {}, str(folder), "run")

    def read(data: bytes) -> str:
        (folder / "run" / "stages").mkdir(parents=True, exist_ok=True)
        (folder / "run" / "stages" / "evaluate-denoising.json").write_bytes(data)
        return repr(load_record(run, "evaluate-denoising"))

    return Kind("stage record", record().to_json(), read)


def _hand_overs(folder: Path) -> Kind:
    del folder
    objects = {"encoder": StoredObject("a/b", "s3://x/a/b", "0" * 64, 3)}
    content = HandOver("pretrain", "smoke", objects).to_json()
    return Kind("hand-over", content, HandOver.from_json)


def _manifests(folder: Path) -> Kind:
    del folder
    return Kind("manifest", manifest().to_json(), Manifest.from_json)


def _notes(folder: Path) -> Kind:
    del folder
    info = manifest().shards("train")[0]
    note = ShardNote(3, info, {0: 1, 1: 1}, {"grey to RGB": 1}, [("a", "empty file", "0 bytes")])
    return Kind("note of a shard", note.to_json(), ShardNote.from_json)


def _leases(folder: Path) -> Kind:
    del folder
    holder = replace(Holder.here("epg run"), token="0" * 32)
    return Kind("lease", holder.to_json(), Holder.from_json)


def _failures(folder: Path) -> Kind:
    del folder
    from epg.documents import sealed

    content = {"stage": "pretrain", "message": "no space left", "time": 1.5}
    return Kind("failure", json.dumps(sealed(content)).encode(), _failure)


def _registry(folder: Path, name: str) -> tuple[bytes, Path]:
    weights = folder / "weights"
    weights.write_bytes(b"weights")
    registry = open_registry(str(folder / "registry"))
    registry.register("digits", weights, recipe_yaml="", metrics={}, card="")
    path = folder / "registry" / "digits" / "v1" / name
    return path.read_bytes(), path


def _entries(folder: Path) -> Kind:
    content, path = _registry(folder, "model.json")

    def read(data: bytes) -> Any:
        path.write_bytes(data)
        return open_registry(str(folder / "registry")).resolve("digits:v1")

    return Kind("registry entry", content, read)


def _registered_weights(folder: Path) -> Kind:
    content, path = _registry(folder, "model.safetensors")

    def read(data: bytes) -> bytes:
        path.write_bytes(data)
        registry = open_registry(str(folder / "registry"))
        return registry.fetch("digits", folder / "got").read_bytes()

    return Kind("registered weights", content, read)


def _checkpoint(folder: Path, name: str) -> Kind:
    from epg.store import open_store

    store = open_store(str(folder / "store"))
    tensors = {"w": torch.arange(3.0), "n": torch.tensor(7)}

    def bound() -> Checkpoints:
        return Checkpoints(store, {"lr": 0.1}, {"shards": "aa"}, folder)

    bound().save(30, tensors, [{"step": 30, "loss": 0.25}])
    (path,) = (folder / "store").glob(f"*/{name}")

    def read(data: bytes) -> str:
        path.write_bytes(data)
        into = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
        return f"{bound().restore(lambda: into)} {into}"

    return Kind(f"checkpoint's {name}", path.read_bytes(), read)


def _checkpoint_manifests(folder: Path) -> Kind:
    return _checkpoint(folder, "manifest.json")


def _checkpoint_tensors(folder: Path) -> Kind:
    return _checkpoint(folder, "state-00000.safetensors")


def _checkpoint_series(folder: Path) -> Kind:
    return _checkpoint(folder, "series.jsonl")


def _weights(folder: Path) -> Kind:
    path = folder / "w.safetensors"
    tensors = {"b": torch.ones(2), "a": torch.zeros(3, dtype=torch.bfloat16)}
    save_weights(path, tensors, {"kind": "x", "shape": {"width": 4}})

    def read(data: bytes) -> str:
        path.write_bytes(data)
        return repr(load_weights(path, "x"))

    return Kind("weight file", path.read_bytes(), read)


def _shards(folder: Path) -> Kind:
    from epg.store import open_store

    path = folder / "s" / "train-000000.tar"
    path.parent.mkdir()
    whole, store = manifest(), open_store(str(folder))

    def read(data: bytes) -> str:
        path.write_bytes(data)
        return repr(ShardReader(store, whole, "train").load())

    return Kind("shard", shard(), read)

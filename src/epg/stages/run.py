"""A run, its stage records, and the one way in which every stage does its work once.

A stage record is a small JSON object written after all outputs of the stage are in the store:
where it exists, the stage is done. Its fingerprint covers what the result depends on (the parts
of the recipe, the digests of the inputs, the version of `epg`), so that the same command reuses
it and a changed one does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epg import __version__
from epg.config.comparison import differences
from epg.config.loading import dump_recipe, load_recipe
from epg.config.recipe import Recipe
from epg.errors import UserError
from epg.stages.settings import training_config
from epg.stages.versions import versions
from epg.store import Store, open_store
from epg.store.base import ObjectNotFound
from epg.store.digest import file_sha256
from epg.telemetry.outcomes import Outcome, push_outcome
from epg.telemetry.progress import StageReporter

#: Stages that take long and are never thrown away because a setting changed.
TRAINING_STAGES = ("pretrain", "finetune-denoising", "finetune-consistency")
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
        check_run_name(run_name)
        root = open_store(store)
        return cls(
            recipe=load_recipe(recipe, overrides),
            store=root.sub(run_name),
            registry=root.sub("registry"),
            name=run_name,
            store_uri=store,
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
    """Where a working stage puts its results; they are stored before the record is."""

    stage: str
    store: Store
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
    if record is None:
        raise UserError(
            f"stage {stage!r} of run {run.name!r} is not done in {run.store_uri}: "
            f"run it first (`epg run --recipe {run.recipe.name} --run-name {run.name}` does all)"
        )
    return record


def fetch_output(run: Run, record: StageRecord, name: str, path: Path) -> Path:
    """Copy an output of a finished stage to `path` and check its digest."""
    if name not in record.outputs:
        raise UserError(
            f"stage {record.stage!r} of run {run.name!r} has no output {name!r}: "
            f"it has {', '.join(sorted(record.outputs)) or 'none'}"
        )
    entry = record.outputs[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    run.store.get_file(entry["key"], path)
    found = file_sha256(path)
    if found != entry["sha256"]:
        raise UserError(
            f"{run.store.uri}/{entry['key']}: SHA-256 is {found[:12]}..., expected "
            f"{entry['sha256'][:12]}...: the object was altered; run again with "
            f"`--from {record.stage}`"
        )
    return path


def outputs_exist(run: Run, record: StageRecord) -> bool:
    """Tell whether every output of a record is still in the store, in its size."""
    return all(run.store.size(e["key"]) == e["size"] for e in record.outputs.values())


def perform(
    run: Run,
    stage: str,
    *,
    config: dict[str, Any],
    inputs: dict[str, str],
    work: Callable[[StageReporter, Outputs], None],
    refuse_changed: bool = False,
    always: bool = False,
) -> StageRecord:
    """Do a stage's work, or reuse its earlier result when nothing that it depends on changed.

    Args:
        run: the run.
        stage: name of the stage, such as `finetune-denoising`.
        config: the parts of the recipe that the result depends on (JSON).
        inputs: name -> SHA-256 of what is read.
        work: does it, with a reporter and the outputs.
        refuse_changed: raise `UserError` instead of replacing an earlier result that was made
            with other settings (training stages: their work is worth hours).
        always: never reuse.
    """
    reporter = StageReporter(stage)
    digest = fingerprint(stage, config, inputs)
    record = load_record(run, stage)
    if record is not None and not always:
        if record.fingerprint == digest and outputs_exist(run, record):
            reporter.reused(record.finished)
            return record
        if refuse_changed and record.config != config:
            raise changed_error(run, stage, record.config, config)
    if refuse_changed and os.environ.get("EPG_REUSE_ONLY") == "1":
        raise UserError(
            f"stage {stage!r} of run {run.name!r} has no result for this recipe in "
            f"{run.store_uri}, and only results are wanted here (pipelines/epg_evaluate.yaml): "
            "train it first by pipelines/epg_full.yaml"
        )
    save_recipe(run)
    reporter.started()
    started = datetime.now(UTC)
    scratch = Path(tempfile.mkdtemp(prefix=f"epg-{stage}-", dir=os.environ.get("EPG_SCRATCH")))
    try:
        outputs = Outputs(stage, run.store, scratch)
        work(reporter, outputs)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    finished = datetime.now(UTC)
    record = StageRecord(
        stage=stage,
        fingerprint=digest,
        config=config,
        inputs=inputs,
        outputs=outputs.stored,
        metrics=outputs.metrics,
        details=outputs.details,
        started=started.isoformat(timespec="seconds"),
        finished=finished.isoformat(timespec="seconds"),
        duration_seconds=round((finished - started).total_seconds(), 3),
        versions=versions(),
    )
    run.store.put_bytes(record_key(stage), json.dumps(asdict(record), indent=1).encode())
    run.store.delete(f"failures/{stage}.json")
    seconds = record.duration_seconds
    push_outcome(
        Outcome(stage, run.recipe.name, run.name, record.metrics, seconds, finished.timestamp()),
        warn=reporter.warning,
    )
    reporter.finished({k: v for k, v in outputs.metrics.items() if isinstance(v, int | float)})
    return record


def save_recipe(run: Run) -> None:
    """Keep the resolved recipe beside the results."""
    run.store.put_bytes(RECIPE_KEY, dump_recipe(run.recipe).encode())


def changed_error(
    run: Run, stage: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> UserError:
    """Build the refusal to train on, or over, what was made with other settings."""
    listed = "; ".join(differences(old, new)) or "another version of epg"
    return UserError(
        f"run {run.name!r} has results of {stage!r} made with other settings ({listed}): "
        f"choose another --run-name, or throw them away with `--from {stage}`"
    )


def check_unchanged(run: Run) -> None:
    """Refuse at once, before anything long, what a training stage would refuse later."""
    for stage in TRAINING_STAGES:
        record = load_record(run, stage)
        config = training_config(run.recipe, stage)
        if record is not None and record.config != config:
            raise changed_error(run, stage, record.config, config)

"""The one way in which every stage does its work once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epg.config.comparison import differences
from epg.errors import UserError
from epg.runs.record import (
    Outputs,
    StageRecord,
    fingerprint,
    load_record,
    outputs_exist,
    record_key,
)
from epg.runs.run import Run, save_recipe
from epg.runs.stage import Stage
from epg.runs.versions import versions
from epg.telemetry.outcomes import StageOutcome, push_outcome
from epg.telemetry.progress import StageReporter


def perform(
    run: Run,
    stage: Stage,
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
        stage: which one, of `epg.stages.catalog`.
        config: the parts of the recipe that the result depends on (JSON).
        inputs: name -> SHA-256 of what is read.
        work: does it, with a reporter and the outputs.
        refuse_changed: raise `UserError` instead of replacing an earlier result that was made
            with other settings (training stages: their work is worth hours).
        always: never reuse.
    """
    name = stage.name
    reporter = StageReporter(name)
    digest = fingerprint(name, config, inputs)
    record = load_record(run, name)
    if record is not None and not always:
        if record.fingerprint == digest and outputs_exist(run, record):
            reporter.reused(record.finished)
            return record
        if refuse_changed and record.config != config:
            raise changed_error(run, name, record.config, config)
    if refuse_changed and os.environ.get("EPG_REUSE_ONLY") == "1":
        raise UserError(
            f"stage {name!r} of run {run.name!r} has no result for this recipe in "
            f"{run.store_uri}, and only results are wanted here (pipelines/epg_evaluate.yaml): "
            "train it first by pipelines/epg_full.yaml"
        )
    save_recipe(run)
    reporter.started()
    started = datetime.now(UTC)
    scratch = Path(tempfile.mkdtemp(prefix=f"epg-{name}-", dir=os.environ.get("EPG_SCRATCH")))
    try:
        outputs = Outputs(name, run.store, scratch)
        work(reporter, outputs)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    finished = datetime.now(UTC)
    record = StageRecord(
        stage=name,
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
    run.store.put_bytes(record_key(name), json.dumps(asdict(record), indent=1).encode())
    run.store.delete(f"failures/{name}.json")
    push_outcome(
        StageOutcome(
            kind=stage.tells,
            step=name,
            recipe=run.recipe.name,
            run=run.name,
            metrics=record.metrics,
            duration_seconds=record.duration_seconds,
            finished=finished.timestamp(),
        ),
        warn=reporter.warning,
    )
    reporter.finished({k: v for k, v in outputs.metrics.items() if isinstance(v, int | float)})
    return record


def changed_error(
    run: Run, stage: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> UserError:
    """Build the refusal to train on, or over, what was made with other settings."""
    listed = "; ".join(differences(old, new)) or "another version of epg"
    return UserError(
        f"run {run.name!r} has results of {stage!r} made with other settings ({listed}): "
        f"choose another --run-name, or throw them away with `--from {stage}`"
    )

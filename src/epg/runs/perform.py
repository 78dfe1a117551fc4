"""The one way in which every stage does its work once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epg import __version__
from epg.config.comparison import differences
from epg.errors import UserError
from epg.runs.claim import claim_run, settle_recipe
from epg.runs.record import (
    Outputs,
    StageRecord,
    fingerprint,
    load_record,
    outputs_exist,
    record_key,
)
from epg.runs.run import Run, pipeline_run
from epg.runs.stage import Stage
from epg.runs.versions import versions
from epg.store.held import HeldStore
from epg.store.lease import Lease
from epg.store.scratch import scratch_folder
from epg.telemetry.outcomes import StageOutcome, push_outcome
from epg.telemetry.progress import StageReporter


#: (run, digests of earlier inputs, digests of the inputs now) -> what differs, in words.
Explain = Callable[[Run, Mapping[str, str], Mapping[str, str]], list[str]]


def perform(
    run: Run,
    stage: Stage,
    *,
    config: dict[str, Any],
    inputs: dict[str, str],
    work: Callable[[StageReporter, Outputs], None],
    always: bool = False,
    explain: Explain | None = None,
) -> StageRecord:
    """Do a stage's work, or reuse its earlier result when nothing that it depends on changed.

    Args:
        run: the run.
        stage: which one, of `epg.stages.catalog`.
        config: the parts of the recipe that the result depends on (JSON).
        inputs: name -> SHA-256 of what is read.
        work: does it, with a reporter and the outputs.
        always: never reuse.
        explain: says in words how other inputs differ from earlier ones, for the refusal.

    Raises:
        UserError: a training stage would replace a result that was made with other settings or of
            other data (its work is worth hours), or somebody else is at this stage of this run, or at
            the run with another recipe.
    """
    claim_run(run)
    reporter = StageReporter(stage.name)
    record = None if always else _earlier(run, stage, config, inputs, explain)
    if record is None:
        engine = f", pipeline run {pipeline_run()}" if pipeline_run() else ""
        owner = f"stage {stage.name} of run {run.name}{engine}"
        with Lease(run.store, f"leases/{stage.name}", owner) as lease:
            # Whoever held the lease until now may have done the work.
            record = None if always else _earlier(run, stage, config, inputs, explain)
            if record is None:
                begun = _Begun(stage, config, inputs)
                return begun.work(run, reporter, work, lease)
    if record.versions.get("epg") != __version__:
        reporter.warning(f"made by epg {record.versions.get('epg')}, and kept")
    reporter.reused(record.finished)
    return record


def _earlier(
    run: Run,
    stage: Stage,
    config: dict[str, Any],
    inputs: dict[str, str],
    explain: Explain | None,
) -> StageRecord | None:
    """Return an earlier result that still holds, or None. Raises `UserError` as `perform`.

    What was trained holds whatever version of epg has trained it; all else is made anew.
    """
    record = load_record(run, stage.name)
    if record is not None:
        training = stage.kind == "training"
        if training and (record.config != config or record.inputs != inputs):
            other = _changed_inputs(run, record.inputs, inputs, explain)
            raise changed_error(run, record, config, other)
        same = training or record.fingerprint == fingerprint(stage.name, config, inputs)
        if same and outputs_exist(run, record):
            return record
    if stage.kind == "training" and os.environ.get("EPG_REUSE_ONLY") == "1":
        raise UserError(
            f"stage {stage.name!r} of run {run.name!r} has no result for this recipe in "
            f"{run.store_uri}, and only results are wanted here (pipelines/epg_evaluate.yaml): "
            "train it first by pipelines/epg_full.yaml"
        )
    return None


@dataclass(frozen=True)
class _Begun:
    """A stage that has no result yet, and what its result will depend on."""

    stage: Stage
    config: dict[str, Any]
    inputs: dict[str, str]

    def work(
        self,
        run: Run,
        reporter: StageReporter,
        work: Callable[[StageReporter, Outputs], None],
        lease: Lease,
    ) -> StageRecord:
        """Do the work in a scratch folder; the record is written last, by whoever has the lease."""
        name = self.stage.name
        settle_recipe(run)
        reporter.started()
        started = datetime.now(UTC)
        with scratch_folder(name) as scratch:
            outputs = Outputs(name, HeldStore(run.store, lease), scratch)
            work(reporter, outputs)
        record = self._record(outputs, started, datetime.now(UTC))
        outputs.store.put_bytes(record_key(name), record.to_json())
        outputs.store.delete(f"failures/{name}.json")
        self._push(run, record, reporter)
        numbers = {k: v for k, v in record.metrics.items() if isinstance(v, int | float)}
        reporter.finished(numbers)
        return record

    def _record(self, outputs: Outputs, started: datetime, finished: datetime) -> StageRecord:
        return StageRecord(
            stage=self.stage.name,
            fingerprint=fingerprint(self.stage.name, self.config, self.inputs),
            config=self.config,
            inputs=self.inputs,
            outputs=outputs.stored,
            metrics=outputs.metrics,
            details=outputs.details,
            started=started.isoformat(timespec="seconds"),
            finished=finished.isoformat(timespec="seconds"),
            duration_seconds=round((finished - started).total_seconds(), 3),
            versions=versions(),
        )

    def _push(self, run: Run, record: StageRecord, reporter: StageReporter) -> None:
        outcome = StageOutcome(
            kind=self.stage.tells,
            step=record.stage,
            recipe=run.recipe.name,
            run=run.name,
            metrics=record.metrics,
            duration_seconds=record.duration_seconds,
            finished=datetime.fromisoformat(record.finished).timestamp(),
        )
        push_outcome(outcome, warn=reporter.warning)


def _changed_inputs(
    run: Run, before: Mapping[str, str], after: Mapping[str, str], explain: Explain | None
) -> list[str]:
    """Say what a stage is made from now and was not then."""
    names = sorted(n for n in {*before, *after} if before.get(n) != after.get(n))
    words = explain(run, before, after) if explain is not None and names else []
    return words or [f"what it is made from has changed: {name}" for name in names]


def changed_error(
    run: Run, record: StageRecord, config: Mapping[str, Any], changed: Sequence[str] = ()
) -> UserError:
    """Build the refusal to train on, or over, what was made otherwise.

    Args:
        run: the run.
        record: of the earlier result.
        config: the settings now.
        changed: what it was made from and has changed since, in words.
    """
    settings = differences(record.config, config)
    made_by = record.versions.get("epg")
    by = f" by epg {made_by}" if made_by != __version__ else ""
    of = "with other settings" if settings or not changed else "of other data"
    return UserError(
        f"run {run.name!r} has results of {record.stage!r} made{by} {of} "
        f"({'; '.join([*settings, *changed])}): choose another --run-name, or throw them away with "
        f"`--from {record.stage}`"
    )

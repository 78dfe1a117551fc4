"""What the page is made from: plain facts about a run, gathered by `stages/findings.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from epg.config.recipe import Recipe
from epg.runs.record import StageRecord
from epg.runs.stage import Stage


@dataclass(frozen=True)
class Failure:
    """Why a stage stopped: the line that its user was shown."""

    stage: str
    message: str
    time: float  # seconds since 1970


@dataclass(frozen=True)
class FinalStatus:
    """What the engine says about the whole run (KFP's PipelineTaskFinalStatus)."""

    state: str
    message: str = ""


@dataclass(frozen=True)
class Dataset:
    """The data set in figures, from its manifest."""

    source: str
    image_size: int
    channels: int
    classes: Sequence[str]
    counts: Mapping[str, int]  # split -> number of images


@dataclass(frozen=True)
class RunFacts:
    """Everything that one page shows. Any part may be missing but the first four."""

    name: str
    store_uri: str
    recipe: Recipe
    stages: Sequence[Stage]  # that the page tells of, in the order of the pipeline
    recipe_text: str = ""
    recipe_argument: str = ""  # what --recipe takes to get this recipe, and with it:
    settings: Sequence[str] = ()  # the `a.b=c` of --set
    records: Mapping[str, StageRecord] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    status: FinalStatus | None = None
    reused: frozenset[str] = frozenset()
    dataset: Dataset | None = None
    images: Mapping[str, bytes] = field(default_factory=dict)  # "grid-denoising" -> PNG
    sheets: Mapping[str, bytes] = field(default_factory=dict)  # "denoising" -> PNG, for the page
    strips: Mapping[str, Mapping[int, bytes]] = field(default_factory=dict)  # "real" -> label: PNG
    series: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sweeps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # objective -> its points
    paces: Sequence[tuple[str, str]] = ()  # training -> how fast it was, beside its plan
    notes: Sequence[str] = ()  # what could not be read
    generated: str = ""

    @property
    def objectives(self) -> list[str]:
        """The kinds of models that the pipeline knows."""
        return list(dict.fromkeys(stage.objective for stage in self.stages if stage.objective))

    def record(self, step: str, objective: str = "") -> StageRecord | None:
        """Return the record of a step (of one objective's branch), or None."""
        for stage in self.stages:
            if (stage.step, stage.objective) == (step, objective):
                return self.records.get(stage.name)
        return None

    def metrics(self, step: str, objective: str = "") -> Mapping[str, Any]:
        """Return the metrics of a finished step, or none at all."""
        record = self.record(step, objective)
        return record.metrics if record else {}

    def details(self, step: str, objective: str = "") -> Mapping[str, Any]:
        """Return the details of a finished step, or none at all."""
        record = self.record(step, objective)
        return record.details if record else {}


def seconds_since_1970(time: str) -> float:
    """Read an ISO time; one without a zone is UTC, an unreadable one is 0."""
    try:
        read = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return 0.0
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def standing_failures(facts: RunFacts) -> list[Failure]:
    """Return failures that no later success of the same stage has mended, in DAG order.

    A stage that the page does not know comes last; the report's own failure is none of the run.
    """
    known = [stage.name for stage in facts.stages]
    found = []
    for stage in (*known, *sorted(set(facts.failures) - set(known) - {"report"})):
        failure = facts.failures.get(stage)
        record = facts.records.get(stage)
        if failure and not (record and seconds_since_1970(record.finished) >= failure.time):
            found.append(failure)
    return found


def next_stages(facts: RunFacts) -> list[Stage]:
    """Return stages without a result whose inputs are all there: where a run stopped."""
    return [
        stage
        for stage in facts.stages
        if stage.name not in facts.records and all(need in facts.records for need in stage.needs)
    ]


def branch_state(facts: RunFacts, objective: str) -> str:
    """Tell how far a branch came: `done`, `begun`, `failed`, `not wanted`, `not reached`."""
    names = {stage.name for stage in facts.stages if stage.objective == objective}
    if any(failure.stage in names for failure in standing_failures(facts)):
        return "failed"
    if facts.record("gate", objective):
        return "done"
    if names & set(facts.records):
        return "begun"
    succeeded = facts.status is not None and facts.status.state == "SUCCEEDED"
    other_done = any(facts.record("gate", o) for o in facts.objectives if o != objective)
    quiet = facts.status is None and not standing_failures(facts)
    return "not wanted" if succeeded or (quiet and other_done) else "not reached"

"""What the page is made from: plain facts about a run, gathered by `stages/report.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from epg.config.recipe import Recipe

OBJECTIVES = ("denoising", "consistency")
SHARED_STAGES = ("shard", "reference-statistics", "pretrain", "count-gflops")
BRANCH_STAGES = ("finetune", "evaluate", "gate", "register")
TRAINING_STAGES = ("pretrain", "finetune-denoising", "finetune-consistency")
#: Every stage that the page tells of, in the order of the pipeline.
STAGES = (
    *SHARED_STAGES,
    *(f"{stage}-{objective}" for stage in BRANCH_STAGES for objective in OBJECTIVES),
)

#: What must be done before a stage can begin (`finetune-X` stands for both objectives).
_NEEDS = {
    "shard": (),
    "count-gflops": (),
    "reference-statistics": ("shard",),
    "pretrain": ("shard",),
    "finetune": ("pretrain",),
    "evaluate": ("finetune-X", "reference-statistics"),
    "gate": ("evaluate-X",),
    "register": ("gate-X",),
}


class Record(Protocol):
    """The parts of a stage record that the page reads (see `runs/record.py`)."""

    @property
    def stage(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def metrics(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def details(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def started(self) -> str: ...  # noqa: D102
    @property
    def finished(self) -> str: ...  # noqa: D102
    @property
    def duration_seconds(self) -> float: ...  # noqa: D102
    @property
    def versions(self) -> dict[str, Any]: ...  # noqa: D102


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
    """Everything that one page shows. Any part may be missing but the first three."""

    name: str
    store_uri: str
    recipe: Recipe
    recipe_text: str = ""
    recipe_argument: str = ""  # what --recipe takes to get this recipe, and with it:
    settings: Sequence[str] = ()  # the `a.b=c` of --set
    records: Mapping[str, Record] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    status: FinalStatus | None = None
    reused: frozenset[str] = frozenset()
    dataset: Dataset | None = None
    images: Mapping[str, bytes] = field(default_factory=dict)  # "grid-denoising" -> PNG
    sheets: Mapping[str, bytes] = field(default_factory=dict)  # "denoising" -> PNG, for the page
    strips: Mapping[str, Mapping[int, bytes]] = field(default_factory=dict)  # "real" -> label: PNG
    series: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: Sequence[str] = ()  # what could not be read
    generated: str = ""

    def metrics(self, stage: str) -> Mapping[str, Any]:
        """Return the metrics of a finished stage, or none at all."""
        return self.records[stage].metrics if stage in self.records else {}

    def details(self, stage: str) -> Mapping[str, Any]:
        """Return the details of a finished stage, or none at all."""
        return self.records[stage].details if stage in self.records else {}


def seconds_since_1970(time: str) -> float:
    """Read an ISO time; one without a zone is UTC, an unreadable one is 0."""
    try:
        read = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return 0.0
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def standing_failures(facts: RunFacts) -> list[Failure]:
    """Return failures that no later success of the same stage has mended, in DAG order."""
    found = []
    for stage in (*STAGES, *sorted(set(facts.failures) - set(STAGES) - {"report"})):
        failure = facts.failures.get(stage)
        record = facts.records.get(stage)
        if failure and not (record and seconds_since_1970(record.finished) >= failure.time):
            found.append(failure)
    return found


def next_stages(facts: RunFacts) -> list[str]:
    """Return stages without a result whose inputs are all there: where a run stopped."""
    found = []
    for stage in STAGES:
        kind, objective = split_stage(stage)
        needs = [need.replace("X", objective) for need in _NEEDS[kind]]
        if stage not in facts.records and all(need in facts.records for need in needs):
            found.append(stage)
    return found


def split_stage(stage: str) -> tuple[str, str]:
    """Split `finetune-denoising` into (`finetune`, `denoising`); a shared stage has no second."""
    for objective in OBJECTIVES:
        if stage.endswith(f"-{objective}"):
            return stage.removesuffix(f"-{objective}"), objective
    return stage, ""


def branch_state(facts: RunFacts, objective: str) -> str:
    """Tell how far a branch came: `done`, `begun`, `failed`, `not wanted`, `not reached`."""
    stages = [f"{stage}-{objective}" for stage in BRANCH_STAGES]
    if any(failure.stage in stages for failure in standing_failures(facts)):
        return "failed"
    if f"gate-{objective}" in facts.records:
        return "done"
    if any(stage in facts.records for stage in stages):
        return "begun"
    succeeded = facts.status is not None and facts.status.state == "SUCCEEDED"
    other = next(o for o in OBJECTIVES if o != objective)
    quiet = facts.status is None and not standing_failures(facts)
    if succeeded or (quiet and f"gate-{other}" in facts.records):
        return "not wanted"
    return "not reached"

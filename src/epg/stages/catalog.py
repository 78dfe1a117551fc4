"""The one table of stages. Whoever must know the pipeline's shape reads it here.

`pipelines/epg_full.py` is the same graph in Kubeflow's words; a test holds the compiled file to
this table. A stage that is there for each objective appears once for each.
"""

from __future__ import annotations

from epg.config import OBJECTIVES
from epg.errors import UserError
from epg.runs.stage import Kind, Stage


def _branch(objective: str) -> tuple[Stage, ...]:
    """The stages that each objective has of its own."""
    trained, judged, passed = (f"{step}-{objective}" for step in ("finetune", "evaluate", "gate"))
    return (
        Stage(trained, "finetune", objective, "training", ("shard", "pretrain"), "training"),
        Stage(
            judged,
            "evaluate",
            objective,
            "judging",
            ("shard", "reference-statistics", trained),
            "evaluation",
        ),
        Stage(passed, "gate", objective, "deciding", (judged,), "verdict"),
        Stage(
            f"register-{objective}", "register", objective, "deciding", (trained, judged, passed)
        ),
    )


_ALL = (
    Stage("shard", "shard", "", "preparing", (), "shards"),
    Stage("count-gflops", "count-gflops", "", "preparing", (), "costs"),
    Stage("reference-statistics", "reference-statistics", "", "computing", ("shard",)),
    Stage("pretrain", "pretrain", "", "training", ("shard",), "training"),
    *(stage for objective in OBJECTIVES for stage in _branch(objective)),
    Stage("report", "report", "", "deciding", ()),
)
#: Steps that help `shard`, in pods of their own: they leave no record and are no stages of a run.
SHARD_PLAN = Stage("shard-plan", "shard-plan", "", "preparing", ())
SHARD_PART = Stage("shard-part", "shard-part", "", "preparing", ())
HELPING = (SHARD_PLAN, SHARD_PART)
#: Every stage by its name, in an order in which they may run.
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
#: Steps on demand, which no whole pipeline has, and how they run.
ON_DEMAND: dict[str, Kind] = {"sweep": "judging"}
_BRANCHED = frozenset(stage.step for stage in _ALL if stage.objective)


def find_stage(step: str, objective: str = "") -> Stage:
    """Return the stage of a step and, where each objective has its own, of an objective.

    Raises:
        UserError: an objective that does not exist.
    """
    if step in _BRANCHED and objective not in OBJECTIVES:
        raise UserError(f"objective {objective!r}: use {' or '.join(OBJECTIVES)}")
    return STAGES[f"{step}-{objective}" if step in _BRANCHED else step]


def kind_of(name: str) -> Kind:
    """Return how a stage runs, also of a name that leaves its objective open (`finetune`).

    Raises:
        KeyError: there is no such stage.
    """
    kinds = {stage.step: stage.kind for stage in (*STAGES.values(), *HELPING)} | ON_DEMAND
    return STAGES[name].kind if name in STAGES else kinds[name]


def stages_of_kind(*kinds: Kind) -> list[Stage]:
    """Return the stages of these kinds, in running order."""
    return [stage for stage in STAGES.values() if stage.kind in kinds]


def stages_after(name: str) -> list[str]:
    """Return a stage and all that use its results, directly or not, in running order."""
    found = {name}
    for stage in STAGES.values():
        if found & set(stage.needs):
            found.add(stage.name)
    return [each for each in STAGES if each in found]


def stages_of(objectives: list[str]) -> list[str]:
    """Return the stages of a run that trains these objectives, in running order."""
    return [s.name for s in STAGES.values() if not s.objective or s.objective in objectives]

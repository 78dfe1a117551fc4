"""The one table of stages. Whoever must know the pipeline's shape reads it here.

`pipelines/epg_full.py` is the same graph in Kubeflow's words; a test holds the compiled file to
this table. A stage that is there for each objective appears once for each.
"""

from __future__ import annotations

from epg.errors import UserError
from epg.runs.stage import Kind, Stage

OBJECTIVES = ("denoising", "consistency")

# step, kind, whether each objective has its own, steps whose results it uses (of its own objective
# where they have one). In an order in which they may run.
_STEPS: tuple[tuple[str, Kind, bool, tuple[str, ...]], ...] = (
    ("shard", "preparing", False, ()),
    ("count-gflops", "preparing", False, ()),
    ("reference-statistics", "computing", False, ("shard",)),
    ("pretrain", "training", False, ("shard",)),
    ("finetune", "training", True, ("shard", "pretrain")),
    ("evaluate", "judging", True, ("shard", "reference-statistics", "finetune")),
    ("gate", "deciding", True, ("evaluate",)),
    ("register", "deciding", True, ("finetune", "evaluate", "gate")),
    ("report", "deciding", False, ()),
)
_BRANCHED = frozenset(step for step, _, branched, _ in _STEPS if branched)


def _name(step: str, objective: str) -> str:
    return f"{step}-{objective}" if step in _BRANCHED else step


def _stages() -> dict[str, Stage]:
    """Shared stages where they stand, then all of one objective, then all of the other."""
    shared = [step for step in _STEPS if step[0] not in _BRANCHED]
    branch = [step for step in _STEPS if step[0] in _BRANCHED]
    rows = [("", step) for step in shared[:-1]]
    rows += [(objective, step) for objective in OBJECTIVES for step in branch]
    rows += [("", shared[-1])]
    return {
        (name := _name(step, objective)): Stage(
            name, step, objective, kind, tuple(_name(need, objective) for need in needs)
        )
        for objective, (step, kind, _, needs) in rows
    }


#: Every stage by its name, in an order in which they may run.
STAGES: dict[str, Stage] = _stages()


def find_stage(step: str, objective: str = "") -> Stage:
    """Return the stage of a step and, where each objective has its own, of an objective.

    Raises:
        UserError: an objective that does not exist.
    """
    if step in _BRANCHED and objective not in OBJECTIVES:
        raise UserError(f"objective {objective!r}: use {' or '.join(OBJECTIVES)}")
    return STAGES[_name(step, objective)]


def kind_of(name: str) -> Kind:
    """Return how a stage runs, also of a name that leaves its objective open (`finetune`).

    Raises:
        KeyError: there is no such stage.
    """
    kinds = {stage.step: stage.kind for stage in STAGES.values()}
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

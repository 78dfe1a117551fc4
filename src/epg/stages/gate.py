"""Stage `gate`: does a model reach what the recipe asks of it?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from epg.config.recipe import Recipe
from epg.errors import UserError, did_you_mean
from epg.measures import FIGURES, MEASURES, find
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, require_record
from epg.runs.run import Run
from epg.stages.catalog import OBJECTIVES, find_stage
from epg.telemetry.progress import StageReporter

Bounds = Mapping[str, Mapping[Any, float]]


def check_bounds(recipe: Recipe) -> None:
    """Refuse bounds on metrics that do not exist, or none at all. Raises `UserError`."""
    for objective in OBJECTIVES:
        for name, bounds in getattr(recipe.gate, objective).items():
            key = f"gate.{objective}.{name}"
            if find(name) is None:
                hint = did_you_mean(name, FIGURES)
                known = ", ".join(sorted(measure.name for measure in MEASURES))
                raise UserError(f"{key}: unknown metric {name!r}{hint}: there are {known}")
            if not bounds:
                raise UserError(f"{key} has no bound: give it min, max, or both")


def judge(metrics: Mapping[str, Any], bounds: Bounds) -> tuple[str, str]:
    """Return `pass` or `fail`, and the reason: metric, value and bound of all that missed theirs.

    A metric that was not measured, or is not a finite number, fails.
    """
    missed: list[str] = []
    reached: list[str] = []
    for name, limits in bounds.items():
        value = metrics.get(name)
        if value is None:
            measure = find(name)
            needs = f" (it needs {measure.needs})" if measure and measure.needs else ""
            missed.append(f"{name} was not measured{needs}")
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            missed.append(f"{name} is {value}, not a finite number")
            continue
        for kind, bound in limits.items():
            wanted = f"{'at least' if kind == 'min' else 'at most'} {bound:g}"
            good = value >= bound if kind == "min" else value <= bound
            if good:
                reached.append(f"{name} is {value:.4g} ({wanted})")
            else:
                missed.append(f"{name} is {_unlike(value, bound)}, {wanted} is asked for")
    if missed:
        return "fail", "; ".join(missed)
    return "pass", "; ".join(reached) or "the recipe asks for nothing"


def _unlike(value: float, bound: float) -> str:
    """Write a value with as many digits as it takes to look different from the bound."""
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if float(text) != bound:
            return text
    return repr(value)


def gate(run: Run, objective: str) -> StageRecord:
    """Compare the evaluation's metrics with `recipe.gate.<objective>`.

    The record's metrics are `verdict` (`pass` or `fail`) and `reason`.
    """
    stage = find_stage("gate", objective)
    check_bounds(run.recipe)
    evaluation = require_record(run, f"evaluate-{objective}")
    bounds = getattr(run.recipe.gate, objective)

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        verdict, reason = judge(evaluation.metrics, bounds)
        outputs.metrics.update(verdict=verdict, reason=reason)
        tell = reporter.message if verdict == "pass" else reporter.warning
        tell(f"{verdict}: {reason}")

    return perform(
        run,
        stage,
        config={"gate": bounds},
        inputs={"metrics": evaluation.outputs["metrics"]["sha256"]},
        work=work,
    )


#: `metrics` orders the steps: Kubeflow keeps six decimals, the evaluation's record keeps all.
gate_component = Component(gate, follows=("metrics",), returns="verdict")

"""Stage `gate`: does a model reach what the recipe asks of it, and what its champion does?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from epg.config.recipe import Recipe
from epg.errors import UserError, did_you_mean
from epg.measures import FIGURES, MEASURES, find
from epg.protocol import incomparable
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, require_record
from epg.runs.run import Run
from epg.stages.catalog import OBJECTIVES, find_stage
from epg.stages.champion import Champion, find_champion
from epg.stages.measured import with_measured
from epg.telemetry.progress import StageReporter

Bounds = Mapping[str, Mapping[Any, float]]

#: What a model must reach where the recipe asks for nothing: not noise, not one image for all.
LEAST_RECALL, LEAST_VARIETY = 0.01, 0.05
_ABOVE_CHANCE = 0.05  # of the way from chance to perfection
_SIGMAS = 3.0
_JUDGES = ("svc_agreement", "class_agreement")


def check_bounds(recipe: Recipe) -> None:
    """Refuse bounds on metrics that do not exist, or none at all. Raises `UserError`."""
    for objective in OBJECTIVES:
        for name, bounds in getattr(recipe.gate, objective).items():
            key = f"gate.{objective}.{name}"
            measure = find(name)
            if measure is None:
                hint = did_you_mean(name, FIGURES)
                known = ", ".join(sorted(measure.name for measure in MEASURES))
                raise UserError(f"{key}: unknown metric {name!r}{hint}: there are {known}")
            if not bounds:
                raise UserError(f"{key} has no bound: give it min, max, or champion")
            if "champion" in bounds and not measure.better:
                raise UserError(
                    f"{key}.champion: neither more nor less of {name} is better, so no champion "
                    "can be had in it: give it min or max"
                )


@dataclass
class _Findings:
    """Bounds that were reached and missed, in words."""

    reached: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def compare(self, name: str, value: float, bound: float, *, low: bool, why: str = "") -> None:
        """Hold a value against one bound, from below or from above."""
        wanted = f"{'at least' if low else 'at most'} {bound:.6g}{why}"
        if value >= bound if low else value <= bound:
            self.reached.append(f"{name} is {value:.4g} ({wanted})")
        else:
            self.missed.append(f"{name} is {_unlike(value, bound)}, {wanted} is asked for")


def judge(
    metrics: Mapping[str, Any],
    bounds: Bounds,
    details: Mapping[str, Any] | None = None,
    champion: Champion | None = None,
) -> tuple[str, str]:
    """Return `pass` or `fail`, and the reason: metric, value and bound of all that missed theirs.

    A metric that was not measured, is not a finite number, or may not be compared with the
    champion's, fails.

    Args:
        metrics: figures of the evaluation.
        bounds: what is asked of them.
        details: of the evaluation, which say how each figure was measured.
        champion: the registered model that `champion` bounds speak of; None where none is
            registered yet, which every model may follow.
    """
    found = _Findings()
    for name, limits in bounds.items():
        value = metrics.get(name)
        if value is None:
            measure = find(name)
            needs = f" (it needs {measure.needs})" if measure and measure.needs else ""
            found.missed.append(f"{name} was not measured{needs}")
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            found.missed.append(f"{name} is {value}, not a finite number")
            continue
        for kind, bound in limits.items():
            if kind == "champion":
                _against(champion, name, float(value), bound, details or {}, found)
            else:
                found.compare(name, value, bound, low=kind == "min")
    if found.missed:
        return "fail", "; ".join(found.missed)
    return "pass", "; ".join(found.reached) or "the recipe asks for nothing"


def _against(
    champion: Champion | None,
    name: str,
    value: float,
    margin: float,
    details: Mapping[str, Any],
    found: _Findings,
) -> None:
    """Hold a value against the champion's, which it may miss by a part of it."""
    if champion is None:
        found.reached.append(f"{name} is {value:.4g} (no champion is registered yet)")
        return
    theirs = champion.metrics.get(name)
    if not isinstance(theirs, int | float) or not math.isfinite(theirs):
        found.missed.append(f"{name} of the champion {champion.name} is not known")
        return
    reason = incomparable(name, details, champion.details)
    if reason:
        found.missed.append(
            f"{name} may not be compared with the champion {champion.name}: {reason}"
        )
        return
    measure = find(name)
    low = measure is not None and measure.better == "higher"
    bound = theirs - margin * abs(theirs) if low else theirs + margin * abs(theirs)
    why = f" against the champion {champion.name}'s {theirs:.4g}"
    found.compare(name, value, bound, low=low, why=why)


def floor(metrics: Mapping[str, Any], num_classes: int) -> dict[str, dict[str, float]]:
    """Return what is asked of a model whose recipe asks for nothing.

    Better than chance in class agreement, by three standard errors and a twentieth of the way to
    perfection; a recall above zero; images that are not all alike. Where no judge knows classes,
    or there is but one, the other two are asked.
    """
    bounds: dict[str, dict[str, float]] = {
        "recall": {"min": LEAST_RECALL},
        "variety": {"min": LEAST_VARIETY},
    }
    judge_of_classes = next((name for name in _JUDGES if name in metrics), None)
    if judge_of_classes is not None and num_classes > 1:
        chance = 1 / num_classes
        count = max(int(metrics.get("num_samples") or 1), 1)
        error = _SIGMAS * math.sqrt(chance * (1 - chance) / count)
        above = max(error, _ABOVE_CHANCE * (1 - chance))
        bounds = {judge_of_classes: {"min": round(min(chance + above, 1.0), 6)}, **bounds}
    return bounds


def _unlike(value: float, bound: float) -> str:
    """Write a value with as many digits as it takes to look different from the bound."""
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if float(text) != bound:
            return text
    return repr(value)


def gate(run: Run, objective: str) -> StageRecord:
    """Compare the evaluation's metrics with `recipe.gate.<objective>`, or with the floor.

    The record's metrics are `verdict` (`pass` or `fail`) and `reason`.
    """
    stage = find_stage("gate", objective)
    check_bounds(run.recipe)
    evaluation = require_record(run, f"evaluate-{objective}")
    settings = run.recipe.gate
    asked: Bounds = getattr(settings, objective)
    bounds = asked
    if not asked and settings.floor:
        bounds = floor(evaluation.metrics, with_measured(run).recipe.data.class_count)
    wants_champion = any("champion" in limits for limits in bounds.values())
    weights = evaluation.inputs.get("generator", "")
    champion = find_champion(run, objective, weights) if wants_champion else None

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        verdict, reason = judge(evaluation.metrics, bounds, evaluation.details, champion)
        if not asked and verdict == "fail":
            reason += (
                f" of a model whose recipe has no bound (gate.{objective}); to register it "
                "nevertheless, say gate.floor=false"
            )
        outputs.metrics.update(verdict=verdict, reason=reason)
        if champion is not None:
            outputs.details["champion"] = champion.name
        tell = reporter.message if verdict == "pass" else reporter.warning
        tell(f"{verdict}: {reason}")

    inputs = {"metrics": evaluation.outputs["metrics"]["sha256"]}
    if champion is not None:
        inputs["champion"] = champion.digest
    return perform(run, stage, config={"gate": bounds}, inputs=inputs, work=work)


#: `metrics` orders the steps: Kubeflow keeps six decimals, the evaluation's record keeps all.
gate_component = Component(gate, follows=("metrics",), returns="verdict")

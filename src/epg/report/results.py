"""The figures of both models: headline cards, the table with its gate, agreement by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epg.measures import Measure, measured
from epg.numbers import decimals, finite
from epg.report.facts import RunFacts, branch_state

MAX_CLASSES = 20  # a table of a thousand classes shows the worst ones
COPY_RATIO = 0.7  # below this, samples lie suspiciously close to training images


#: Figures of the cards at the top; of each line, the first that was measured.
HEADLINES = (
    ("svc_agreement", "inception_score", "class_agreement"),
    ("fid", "frechet_distance"),
    ("nfe",),
    ("images_per_second",),
)


@dataclass(frozen=True)
class Cell:
    """One model's value of one measure, its bootstrap interval, and its gate: met or not.

    All three are text: `0.703`, `0.652 to 0.754`, `≤ 0.800`; the latter two may be empty.
    """

    text: str
    interval: str = ""
    bar: str = ""
    met: bool | None = None


def feature_networks(facts: RunFacts) -> dict[str, str]:
    """Return the networks in whose features the models were judged: name in the recipe -> name."""
    told = [facts.details("evaluate", o).get("feature_networks") for o in facts.objectives]
    return next((dict(networks) for networks in told if networks), {})


def shown_objectives(facts: RunFacts) -> list[str]:
    """Return the objectives that have a place on the page: all that were wanted."""
    wanted = [o for o in facts.objectives if branch_state(facts, o) != "not wanted"]
    return wanted or facts.objectives


def result_rows(facts: RunFacts) -> list[tuple[Measure, str, list[Cell]]]:
    """Return (measure, its meaning, one cell per shown objective) for all that was measured."""
    values = _evaluations(facts)
    networks = feature_networks(facts)
    return [
        (measure, measure.explain(networks), [_cell(facts, measure, o, values[o]) for o in values])
        for measure in measured(name for metrics in values.values() for name in metrics)
    ]


def _evaluations(facts: RunFacts) -> dict[str, Mapping[str, Any]]:
    return {o: facts.metrics("evaluate", o) for o in shown_objectives(facts)}


def _cell(facts: RunFacts, measure: Measure, objective: str, metrics: Mapping[str, Any]) -> Cell:
    value = metrics.get(measure.name)
    limits = getattr(facts.recipe.gate, objective).get(measure.name, {})
    number = finite(value)
    bars, met = [], True
    for kind, sign in (("min", "≥"), ("max", "≤")):
        if kind in limits:
            limit = limits[kind]
            bars.append(f"{sign} {measure.write(limit)}")
            good = number is not None and (number >= limit if kind == "min" else number <= limit)
            met = met and good
    judged = met if bars and value is not None else None
    interval = _interval(facts, measure, objective)
    return Cell(measure.write(value), interval, " and ".join(bars), judged)


def _interval(facts: RunFacts, measure: Measure, objective: str) -> str:
    intervals = facts.details("evaluate", objective).get("intervals")
    found = intervals.get(measure.name) if isinstance(intervals, dict) else None
    ends = [finite(end) for end in found] if isinstance(found, list) else []
    if len(ends) != 2 or None in ends:
        return ""
    return f"{measure.write(ends[0])} to {measure.write(ends[1])}"


def headline_cards(facts: RunFacts) -> list[dict[str, Any]]:
    """Return the cards at the top: title, note and one (objective, value) per shown model."""
    values = _evaluations(facts)
    cards = []
    for names in HEADLINES:
        found = measured(name for metrics in values.values() for name in metrics if name in names)
        if not found:
            continue
        measure = min(found, key=lambda m: names.index(m.name))
        speed = _speed_note(facts) if measure.kind == "rate" else ""
        words = [speed or measure.meaning(feature_networks(facts)), measure.direction]
        cards.append(
            {
                "title": measure.title,
                "note": "; ".join(filter(None, words)),
                "values": [(o, measure.write(m.get(measure.name))) for o, m in values.items()],
            }
        )
    return cards


def _speed_note(facts: RunFacts) -> str:
    for objective in facts.objectives:
        record = facts.record("evaluate", objective)
        if record:
            where = str(record.details.get("device", "cpu"))
            if where != "cpu":
                return f"on {where}"
            if cores := record.versions.get("cores"):
                return f"on {cores} CPU core{'s' if cores != 1 else ''}"
    return ""


def copies_reading(facts: RunFacts) -> dict[str, Any] | None:
    """Say in plain words whether the samples are copies of training images."""
    ratios = {
        o: ratio
        for o in shown_objectives(facts)
        if (ratio := finite(facts.metrics("evaluate", o).get("nearest_neighbour_ratio")))
        is not None
    }
    if not ratios:
        return None
    limits = {
        o: getattr(facts.recipe.gate, o).get("nearest_neighbour_ratio", {}).get("min", COPY_RATIO)
        for o in ratios
    }
    close = [o for o in ratios if ratios[o] < limits[o]]
    bars = [
        (o, f"{100 * min(ratio, 1.5) / 1.5:.1f}", decimals(ratio, 2)) for o, ratio in ratios.items()
    ]
    if close:
        title = "Samples lie close to training images: look for copies."
        text = (
            "The median distance from a generated image to its nearest training image is less "
            f"than {decimals(min(limits.values()), 2)} of that of real images never trained on."
        )
    else:
        title = "Samples are not copies."
        text = (
            "A generated image lies about as far from its nearest training image as a real image "
            "that was never trained on (that distance is 1), or farther."
        )
    mark = f"{100 * min(*limits.values(), 1.5) / 1.5:.1f}"
    return {"title": title, "text": text, "bars": bars, "mark": mark, "good": not close}


def class_agreement(facts: RunFacts, objective: str) -> dict[int, float]:
    """Return label -> agreement of one model, as far as its evaluation tells.

    The independent judge is asked first; a class that nothing was asked of has none.
    """
    details = facts.details("evaluate", objective)
    by_class = details.get("svc_agreement_by_class") or details.get("class_agreement_by_class")
    return {
        label: share
        for label, value in enumerate(by_class or ())
        if (share := finite(value)) is not None
    }


def class_names(facts: RunFacts) -> list[str]:
    """Return the names of the classes, from the manifest or else their numbers."""
    if facts.dataset:
        return [str(name) for name in facts.dataset.classes]
    return [str(label) for label in range(facts.recipe.data.num_classes or 0)]


def shown_labels(facts: RunFacts) -> list[int]:
    """Return the labels that the page shows one by one: all, or those least agreed upon."""
    count = len(class_names(facts))
    if count <= MAX_CLASSES:
        return list(range(count))
    scores = [class_agreement(facts, o) for o in facts.objectives]

    def worst(label: int) -> float:
        return min((score[label] for score in scores if label in score), default=1.0)

    return sorted(sorted(range(count), key=worst)[:MAX_CLASSES])

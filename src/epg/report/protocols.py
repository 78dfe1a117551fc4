"""How the figures were measured: protocols, and what the evaluation warned of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epg.measures import Measure, measured
from epg.numbers import whole
from epg.protocol import FACTS, HASHES
from epg.report.facts import RunFacts
from epg.report.results import shown_objectives

_LABELS = {
    "balanced": "with every class equally often",
    "random": "of classes drawn at random",
}


def measured_on(facts: RunFacts) -> str:
    """Say in a sentence what the figures are of, as far as all models' evaluations agree."""
    told = [found for o in shown_objectives(facts) if (found := _facts(facts, o))]
    counts = {one.get("num_samples") for one in told if isinstance(one.get("num_samples"), int)}
    rules = {_LABELS.get(str(one.get("labels")), "") for one in told}
    count = f"{whole(counts.pop())} " if len(counts) == 1 else ""
    rule = f" {rules.pop()}" if len(rules) == 1 else ""
    return f"Measured on {count}generated images{rule}".rstrip() + "."


def protocols(facts: RunFacts) -> dict[str, Any] | None:
    """Return the hash of every figure, and each model's protocol in words; None: none is known."""
    objectives = shown_objectives(facts)
    hashes = {o: _mapping(facts.details("evaluate", o).get(HASHES)) for o in objectives}
    rows: list[tuple[Measure, list[str]]] = [
        (measure, [str(hashes[o].get(measure.name, "–")) for o in objectives])
        for measure in measured(name for found in hashes.values() for name in found)
    ]
    if not rows:
        return None
    return {"rows": rows, "words": [(o, words(_facts(facts, o))) for o in objectives]}


def warnings(facts: RunFacts) -> list[tuple[str, str]]:
    """Return (objective, what its evaluation warned of)."""
    return [
        (objective, str(warning))
        for objective in shown_objectives(facts)
        for warning in facts.details("evaluate", objective).get("warnings") or ()
    ]


def _facts(facts: RunFacts, objective: str) -> Mapping[str, Any]:
    return _mapping(facts.details("evaluate", objective).get(FACTS))


def words(told: Mapping[str, Any], digits: int = 64) -> list[tuple[str, str]]:
    """Say a protocol in words: (what, which).

    Args:
        told: the facts of a protocol.
        digits: of a SHA-256, to be shown.
    """
    if not told:
        return []
    rows = [
        ("generated images", f"{whole(told.get('num_samples'))}, labels {told.get('labels')}"),
        ("neighbours of precision and recall", str(told.get("neighbours"))),
    ]
    for kind, network in _mapping(told.get("networks")).items():
        space = _mapping(network)
        weights = str(space.get("weights"))[:digits]
        rows.append((f"network {kind}", f"{space.get('name')}, weights {weights}"))
    for kind, reference in _mapping(told.get("references")).items():
        real = _mapping(reference)
        count = f"{whole(real['num_images'])} images, " if real.get("num_images") else ""
        where = f"reference of {kind}" if kind else "training images"
        split = "the file" if real.get("split") == "file" else f"{real.get('split')} of"
        said = f"{split} {real.get('source')}, {count}{str(real.get('digest'))[:digits]}"
        if real.get("network_assumed"):
            said += ", which does not say its network: this one is assumed"
        rows.append((where, said))
    return rows


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}

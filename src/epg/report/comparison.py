"""Published results beside ours, and with what ours may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from epg.measures import FIGURES
from epg.numbers import finite, short
from epg.protocol import FACTS
from epg.published import (
    GFLOPS_CONVENTION,
    MARKS,
    TABLES,
    Published,
    Table,
    published,
    published_as,
    published_table,
)
from epg.report.ending import SHORT_TITLES
from epg.report.facts import RunFacts
from epg.report.results import shown_objectives

#: What published ImageNet figures are measured on.
_SAMPLES, _SPLITS, _SOURCES = 50_000, ("train", "file"), ("imagenet",)
_COLUMNS = (
    ("nfe", "NFE"),
    ("params", "Params"),
    ("gflops", "GFLOPs"),
    ("fid", "FID"),
    ("inception_score", "IS"),
    ("precision", "Prec"),
    ("recall", "Rec"),
    ("epochs", "Epochs"),
)


@dataclass(frozen=True)
class Line:
    """One row: name, cells in the order of the columns, its source, and whether it is ours."""

    name: str
    cells: list[str]
    source: str
    ours: bool = False


def published_tables(facts: RunFacts) -> list[dict[str, Any]]:
    """Return the published tables that models of this run stand beside; none for other sizes."""
    size = facts.recipe.data.image_size
    tables: dict[Table, list[str]] = {}
    for objective in shown_objectives(facts):
        table = published_table(size, one_step=objective == "consistency")
        if table is None or not facts.metrics("evaluate", objective):
            continue
        tables.setdefault(table, []).append(objective)
    return [
        {
            "title": TABLES[table],
            "columns": [label for _, label in _COLUMNS],
            "rows": [*(_ours(facts, o) for o in own), *(_line(row) for row in published(table))],
            "notes": [*(_notes(facts, o) for o in own), f"GFLOPs: {GFLOPS_CONVENTION}."],
            "marks": MARKS,
        }
        for table, own in tables.items()
    ]


def _line(row: Published) -> Line:
    return Line(row.method, [getattr(row, key) or "–" for key, _ in _COLUMNS], row.source)


def _ours(facts: RunFacts, objective: str) -> Line:
    metrics, costs = facts.metrics("evaluate", objective), facts.metrics("count-gflops")
    training = getattr(facts.recipe, objective)
    images = facts.dataset.counts.get("train", 0) if facts.dataset else 0
    epochs = training.steps * training.batch_size / images if images else None
    cells = {
        "nfe": FIGURES["nfe"].write(metrics.get("nfe")),
        "params": short(metrics.get("parameters")),
        "gflops": f"{paper:.0f}" if (paper := finite(costs.get("gmacs_paper"))) else "–",
        "epochs": f"{epochs:,.0f}" if epochs is not None else "–",
    }
    inception = _of_inception(facts, objective)
    for name in ("fid", "inception_score", "precision", "recall"):
        key = name if name in ("fid", "inception_score") else f"{name}{inception}"
        cells[name] = FIGURES[name].write(metrics.get(key)) if inception is not None else "–"
    name = f"{facts.recipe.name}, {SHORT_TITLES[objective].lower()}"
    return Line(name, [cells[key] for key, _ in _COLUMNS], "this run", ours=True)


def _of_inception(facts: RunFacts, objective: str) -> str | None:
    """Return the ending of precision and recall in Inception's features; None: not measured."""
    networks = list(facts.details("evaluate", objective).get("feature_networks") or ())
    if "inception" not in networks:
        return None
    return "" if networks[0] == "inception" else "_inception"


def _notes(facts: RunFacts, objective: str) -> str:
    """Say whether our figures may be compared with the published ones, and if not, why."""
    title = SHORT_TITLES[objective]
    reasons = incomparable_with_published(facts, objective)
    if reasons:
        return f"{title}: not to be compared with these rows: {'; '.join(reasons)}."
    row = published_as(int(facts.metrics("evaluate", objective).get("parameters") or 0))
    same = f" The paper's own row of this model is {row.method}." if row else ""
    return (
        f"{title}: measured as these rows were (50,000 samples, the training images, Inception of "
        f"2015-12-05). Rows differ in how labels were drawn and of how many runs the best is.{same}"
    )


def incomparable_with_published(facts: RunFacts, objective: str) -> list[str]:
    """Return why figures of a model may not be compared with published ImageNet figures."""
    told = facts.details("evaluate", objective).get(FACTS)
    told = told if isinstance(told, dict) else {}
    reasons = []
    source = facts.dataset.source.partition(":")[0] if facts.dataset else ""
    if not source.startswith(_SOURCES):
        reasons.append(f"the images are of {source or 'an unknown source'}, not ImageNet's")
    references = told.get("references")
    reference = references.get("inception") if isinstance(references, dict) else None
    if not isinstance(reference, dict):
        return [*reasons, "FID was not measured (evaluate.networks: [inception])"]
    if told.get("num_samples") != _SAMPLES:
        reasons.append(f"{told.get('num_samples'):,} samples, not {_SAMPLES:,}")
    if reference.get("split") not in _SPLITS:
        reasons.append(
            "compared with held-out images, not with the training images (evaluate.reference)"
        )
    return reasons

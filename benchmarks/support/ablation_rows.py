"""The result of an ablation of pre-training: variants, rows, their table, figure and file."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.support.ablation_figure import figure
from epg.config import OBJECTIVES
from epg.config.comparison import differences
from epg.config.recipe import Recipe

Settings = dict[str, Any]
Row = dict[str, Any]

VARIANTS: dict[str, Settings] = {
    "from scratch": {"pretrain.enabled": False},
    "contrastive only": {"pretrain.consistency_weight": 0.0},
    "consistency only": {"pretrain.contrastive_weight": 0.0},
    "both": {},
}
MEASURES = ("svc_agreement", "class_agreement", "frechet_distance", "linear_probe")


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("variant", "objective", "seed", "steps"))


def summarise(rows: list[Row]) -> list[Row]:
    """One line per (objective, steps, variant): mean and sample deviation over seeds."""
    order = list(VARIANTS)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        place = (OBJECTIVES.index(row["objective"]), row["steps"], order.index(row["variant"]))
        groups.setdefault(place, []).append(row)
    summary = []
    for _, group in sorted(groups.items()):
        first = group[0]
        line: Row = {name: first[name] for name in ("objective", "steps", "variant")}
        line["seeds"] = len(group)
        for name in (name for name in MEASURES if name in first):
            values = [row[name] for row in group]
            spread = statistics.stdev(values) if len(values) > 1 else None
            line[name] = {"mean": statistics.fmean(values), "deviation": spread}
        summary.append(line)
    return summary


def show(summary: list[Row]) -> None:
    """Print the table."""
    heads = dict(
        zip(MEASURES, ("SVC agreement", "classifier", "Fréchet", "linear probe"), strict=True)
    )
    shown = [name for name in MEASURES if all(name in line for line in summary)]
    print(f"{'':45s}" + "".join(f"{heads[name]:>18s}" for name in shown))
    for line in summary:
        name = f"{line['objective']}, {line['steps']} steps, {line['variant']} ({line['seeds']})"
        cells = []
        for measure_name in shown:
            value = line[measure_name]
            spread = "" if value["deviation"] is None else f" ± {value['deviation']:.3f}"
            cells.append(f"{value['mean']:.3f}{spread}")
        print(f"{name:45s}" + "".join(f"{cell:>18s}" for cell in cells))


def drawn(rows: list[Row]) -> str:
    """Return the figure of the fewest steps: SVC agreement of each encoder, by objective."""
    steps = min(row["steps"] for row in rows)
    title = f"SVC agreement of samples after {steps} fine-tuning steps, by encoder"
    of = [row for row in rows if row["steps"] == steps]
    return figure(of, list(VARIANTS), "svc_agreement", title)


def opened(path: Path | None, head: Row) -> Row:
    """Return the result begun in `path`, or a new one.

    Raises:
        SystemExit: the file was measured with another recipe.
    """
    if path is None or not path.exists():
        return {**head, "rows": [], "summary": []}
    found: Row = json.loads(path.read_text())
    # Through its type: keys that are new since then have their defaults. What it says of itself
    # changes no figure.
    then = Recipe.model_validate({**found["recipe"], "seed": 0, "description": ""})
    now = {**head["recipe"], "description": ""}
    changed = differences(then.model_dump(mode="json", exclude={"seed"}), now)
    if changed:
        raise SystemExit(f"{path} was measured with another recipe ({'; '.join(changed)})")
    return found


def written(result: Row, path: Path | None) -> None:
    result["summary"] = summarise(result["rows"])
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")

"""The page of a sweep: a curve for each setting that was varied, and a table of all points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epg.measures import FIGURES, measured
from epg.numbers import finite, whole
from epg.report.curves import Chart, Line, line_chart
from epg.report.html import render

_WORDS = {
    "guidance_scale": "Guidance scale",
    "guidance_interval": "Guidance interval",
    "steps": "Steps",
    "ema": "Average of the weights",
}


def sweep_page(title: str, content: Mapping[str, Any]) -> str:
    """Return the page of one sweep; `title` says whose. See `sweep_view`."""
    return render("sweep.html.j2", title=title, sweep=sweep_view(content))


def sweep_view(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page shows of a sweep.

    Args:
        content: `figure`, `num_samples`, `best` and `points`, as `epg sweep` stores them.
    """
    points, figure = content["points"], str(content["figure"])
    names = list(points[0]["settings"])
    shown = measured(name for point in points for name in point["metrics"])
    rows = [
        {
            "settings": [_setting(point["settings"][name]) for name in names],
            "figures": [measure.write(point["metrics"].get(measure.name)) for measure in shown],
            "best": point["settings"] == content["best"]["settings"],
        }
        for point in points
    ]
    return {
        "figure": FIGURES[figure].label,
        "samples": whole(content["num_samples"]),
        "charts": [chart for name in names if (chart := _chart(name, points, figure)) is not None],
        "names": [_WORDS[name] for name in names],
        "labels": [measure.label for measure in shown],
        "rows": rows,
    }


def _chart(name: str, points: list[Mapping[str, Any]], figure: str) -> Chart | None:
    """Draw the best figure at each value of a setting; None for intervals and single values."""
    best: dict[float, float] = {}
    for point in points:
        at, value = finite(point["settings"][name]), finite(point["metrics"].get(figure))
        if at is not None and value is not None:
            best[at] = min(value, best.get(at, value))
    if len(best) < 2:
        return None
    line = Line(FIGURES[figure].title, sorted(best), [best[at] for at in sorted(best)])
    return line_chart([line], f"{FIGURES[figure].title} by {_WORDS[name].lower()}", exact=True)


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "({:g}, {:g}]".format(*value)
    return f"{value:g}"

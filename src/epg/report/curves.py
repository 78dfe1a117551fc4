"""Training curves as inline SVG: smooth lines over faint raw points, labelled where they end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from epg.numbers import finite, short, significant, whole
from epg.report.axes import Scale, position_scale, tick_text, value_scale
from epg.report.html import render

WIDTH, HEIGHT = 400, 232  # user units; about one pixel each in a 430 px wide page
LEFT, RIGHT, TOP, BOTTOM = 42, 98, 10, 26
MAX_POINTS = 240  # drawn per line; a run of 600,000 steps still gives a page of some kB
MAX_LINES = 5
_LABEL_GAP, _LABEL_LENGTH = 26.0, 14

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """One quantity over the steps: finite points, and the steps where it was not finite."""

    name: str
    x: list[float]
    y: list[float]
    broken: list[float] = field(default_factory=list)

    @property
    def smooth(self) -> list[float]:
        """Centred moving average over a thirtieth of the run; short series are left alone."""
        count = len(self.y)
        half = count // 60 + 1 if count >= 12 else 0
        if not half:
            return self.y
        total = [0.0]
        for value in self.y:
            total.append(total[-1] + value)
        spans = ((max(0, i - half), min(count, i + half + 1)) for i in range(count))
        return [(total[b] - total[a]) / (b - a) for a, b in spans]


@dataclass(frozen=True)
class Chart:
    """A titled SVG and, where something needs saying, a note to stand below it."""

    title: str
    svg: Markup
    note: str = ""
    axis: str = ""  # "log scale" where it is one


def read_line(rows: Rows, key: str, name: str) -> Line | None:
    """Gather one key of the rows over `step` (the last row of a step counts); None if absent."""
    points: dict[float, Any] = {}
    for index, row in enumerate(rows):
        if key in row and row[key] is not None:
            step = finite(row.get("step", index))
            points[index if step is None else step] = row[key]
    if not points:
        return None
    good = [(x, y) for x, value in sorted(points.items()) if (y := finite(value)) is not None]
    broken = [x for x, value in sorted(points.items()) if finite(value) is None]
    return Line(name, [x for x, _ in good], [y for _, y in good], broken)


def loss_lines(rows: Rows) -> list[Line]:
    """Return the total loss and its terms; a single term that is the total is left out."""
    keys: dict[str, None] = {}
    for row in rows:
        keys.update((key, None) for key in row if str(key).startswith("loss_"))
    total = read_line(rows, "loss", "loss")
    terms = [read_line(rows, key, key[5:].replace("_", " ")) for key in keys]
    others = [term for term in terms if term is not None]
    if total is None:
        return others[:MAX_LINES]
    if len(others) == 1 and others[0].y == total.y:
        others = []
    named = Line("total" if others else "loss", total.x, total.y, total.broken)
    return [named, *others[: MAX_LINES - 1]]


def loss_chart(rows: Rows, title: str) -> Chart:
    """Draw the loss of a training stage and its terms."""
    return line_chart(loss_lines(rows), title)


def side_charts(rows: Rows) -> list[Chart]:
    """Draw rate, gradient, deviation of features and speed, as far as the rows tell of them."""
    wanted = (
        ("learning_rate", "Learning rate", "rate"),
        ("grad_norm", "Gradient norm", "norm"),
        ("feature_std", "Deviation of features", "deviation"),
        ("images_per_second", "Speed", "images/s"),
    )
    charts = []
    for key, title, name in wanted:
        line = read_line(rows, key, name)
        if line is not None:
            charts.append(line_chart([line], title, exact=key == "learning_rate"))
    return charts


def line_chart(lines: Sequence[Line], title: str, *, exact: bool = False) -> Chart:
    """Draw up to five lines over the steps into one SVG that takes its colours from the page.

    `exact` is for a quantity that is set, not measured: linear axis, nothing smoothed.
    """
    drawn = [line for line in lines if line.y]
    broken = sorted({x for line in lines for x in line.broken})
    note = _broken_note(broken)
    if not drawn:
        return Chart(title, Markup(""), note or "No value was logged.")
    smooth = [line.y if exact else line.smooth for line in drawn]
    steps = [x for line in drawn for x in line.x] + broken
    across = position_scale(steps, LEFT, WIDTH - RIGHT)
    up = value_scale(
        [v for values in smooth for v in values],
        [v for line in drawn for v in line.y],
        HEIGHT - BOTTOM,
        TOP,
        log=not exact,
    )
    parts = [_axes(across, up)]
    for index, (line, values) in enumerate(zip(drawn, smooth, strict=True)):
        parts.append(_raw(line, across, up, index))
        parts.append(_path(line.x, values, across, up, index))
    parts += [_broken_mark(across(x)) for x in broken[:50]]
    parts.append(_end_labels(drawn, smooth, up))
    axis = "log scale" if up.log else ""
    return Chart(title, _svg(parts, title, _describe(drawn, smooth, up.log)), note, axis)


def curves_html(rows: Iterable[Mapping[str, Any]], title: str) -> str:
    """Return the page of one training stage's curves: self-contained, without any script.

    Args:
        rows: `{"step", "images_seen", "loss", "loss_<term>", "learning_rate", "grad_norm",
            "images_per_second", ...}` in any order; missing keys and non-finite values are fine.
        title: shown as text.
    """
    listed = list(rows)
    last = max(listed, key=lambda row: finite(row.get("step")) or 0.0, default={})
    wanted = (
        ("step", "last step", whole),
        ("images_seen", "images seen", short),
        ("loss", "loss", significant),
        ("images_per_second", "images/s", significant),
    )
    figures = [(name, write(last[key])) for key, name, write in wanted if last.get(key) is not None]
    charts = [loss_chart(listed, "Loss"), *side_charts(listed)]
    return render("curves.html.j2", title=title, figures=figures, charts=charts)


def _svg(parts: Iterable[Markup], title: str, description: str) -> Markup:
    head = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>'
    ).format(WIDTH, HEIGHT, title, description)
    return head + Markup("").join(parts) + Markup("</svg>")


def _axes(across: Scale, up: Scale) -> Markup:
    parts = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in up.ticks():
        y = up(value)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {:.1f}H{}"/><text class="tick" x="{}" y="{:.1f}" '
                'text-anchor="end">{}</text>'
            ).format(LEFT, y, right, LEFT - 7, y + 4, tick_text(value))
        )
    ticks = [value for value in across.ticks() if value == int(value)] or across.ticks()
    while len(ticks) * max(len(tick_text(value)) for value in ticks) > 30 and len(ticks) > 2:
        ticks = ticks[::2]
    for value in ticks:
        parts.append(
            Markup(
                '<path class="axis" d="M{0:.1f} {1}v4"/>'
                '<text class="tick" x="{0:.1f}" y="{2}" text-anchor="middle">{3}</text>'
            ).format(across(value), bottom, bottom + 18, tick_text(value))
        )
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, bottom, right))
    parts.append(
        Markup('<text class="tick" x="{}" y="{}">step</text>').format(right + 8, bottom + 4)
    )
    return Markup("").join(parts)


def _raw(line: Line, across: Scale, up: Scale, index: int) -> Markup:
    """Draw the measured points as one path of round dots; points outside the axis are left out."""
    stride = math.ceil(len(line.x) / MAX_POINTS)
    points = zip(line.x[::stride], line.y[::stride], strict=True)
    dots = "".join(f"M{across(x):.1f} {up(y):.1f}h0" for x, y in points if up.low <= y <= up.high)
    few = " few" if len(line.x) < 12 else ""
    return Markup('<path class="raw c{}{}" d="{}"/>').format(index, few, dots)


def _path(x: Sequence[float], y: Sequence[float], across: Scale, up: Scale, index: int) -> Markup:
    if len(x) < 2:
        return Markup("")
    stride = math.ceil(len(x) / MAX_POINTS)
    points = list(zip(x[::stride], y[::stride], strict=True))
    if points[-1][0] != x[-1]:
        points.append((x[-1], y[-1]))
    path = "L".join(f"{across(a):.1f} {up(b):.1f}" for a, b in points)
    return Markup('<path class="line c{}" d="M{}"/>').format(index, path)


def _broken_mark(x: float) -> Markup:
    bottom = HEIGHT - BOTTOM
    return Markup('<path class="broken" d="M{0:.1f} {1}l6 6m0 -6l-6 6"/>').format(x - 3, bottom - 9)


def _broken_note(broken: Sequence[float]) -> str:
    if not broken:
        return ""
    listed = ", ".join(f"{x:,.0f}" for x in broken[:3])
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    return f"Not finite at step {listed}{more}."


def _end_labels(lines: Sequence[Line], smooth: Sequence[Sequence[float]], up: Scale) -> Markup:
    """Write each line's name and last value beside its end, pushed apart where they would meet."""
    order = sorted(range(len(lines)), key=lambda i: up(smooth[i][-1]))
    places = spread([up(smooth[i][-1]) for i in order], TOP + 4, HEIGHT - BOTTOM - 26, _LABEL_GAP)
    parts = []
    for place, index in zip(places, order, strict=True):
        name = lines[index].name
        shown = name if len(name) <= _LABEL_LENGTH else name[: _LABEL_LENGTH - 1] + "…"
        parts.append(
            Markup(
                '<text class="label t{}" x="{}" y="{:.1f}">{}<tspan class="last" x="{}" dy="13">'
                "{}</tspan></text>"
            ).format(
                index,
                WIDTH - RIGHT + 8,
                place,
                shown,
                WIDTH - RIGHT + 8,
                significant(smooth[index][-1]),
            )
        )
    return Markup("").join(parts)


def spread(places: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Move sorted places apart to at least `gap` (less if they do not fit) inside [low, high]."""
    if len(places) > 1:
        gap = min(gap, (high - low) / (len(places) - 1))
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    limit = high
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def _describe(lines: Sequence[Line], smooth: Sequence[Sequence[float]], log: bool) -> str:
    told = [
        f"{line.name} goes from {significant(values[0])} to {significant(values[-1])}"
        for line, values in zip(lines, smooth, strict=True)
    ]
    first, last = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    axis = " on a logarithmic axis" if log else ""
    return f"Steps {first:,.0f} to {last:,.0f}{axis}: " + "; ".join(told) + "."

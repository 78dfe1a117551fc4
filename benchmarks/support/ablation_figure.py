"""The ablation as a picture: every seed a dot, the mean a line, one row for each encoder."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from epg.config import OBJECTIVES
from epg.report.axes import Scale, linear_ticks, tick_text

_NAMES = {"denoising": "Diffusion", "consistency": "One step"}
_LEFT, _PANEL, _GAP, _TOP, _ROW = 150, 260, 40, 34, 34  # user units, about a pixel each
_COLOURS = {"axis": "#8a8f98", "text": "#24292f", "dot": "#2563a8", "mean": "#c2410c"}

Rows = Sequence[Mapping[str, Any]]


def figure(rows: Rows, variants: Sequence[str], measure: str, title: str) -> str:
    """Return an SVG with a panel for each objective and a row for each variant.

    Args:
        rows: of the benchmark, of one number of steps.
        variants: from top to bottom.
        measure: key of the rows, from 0 to 1.
        title: what it shows.
    """
    height = _TOP + _ROW * len(variants) + 30
    width = _LEFT + len(OBJECTIVES) * (_PANEL + _GAP)
    parts = [
        Markup('<rect width="{}" height="{}" fill="white"/>').format(width, height),
        *(
            _text(_LEFT - 12, _TOP + _ROW * (number + 0.5) + 4, variant, "end")
            for number, variant in enumerate(variants)
        ),
    ]
    for number, objective in enumerate(OBJECTIVES):
        of = [row for row in rows if row["objective"] == objective]
        left = _LEFT + number * (_PANEL + _GAP)
        parts += _panel(of, variants, measure, _NAMES[objective], left)
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'font-family="sans-serif" font-size="12" role="img"><title>{title}</title>\n'
    ).format(w=width, h=height, title=title)
    return head + Markup("\n").join(parts) + Markup("\n</svg>\n")


def _panel(
    rows: Rows, variants: Sequence[str], measure: str, name: str, left: float
) -> Iterator[Markup]:
    scale = Scale(0.0, 1.0, left, left + _PANEL)
    bottom = _TOP + _ROW * len(variants)
    yield _text(left, _TOP - 14, name, "start")
    for tick in linear_ticks(0.0, 1.0):
        yield _line(scale(tick), _TOP, bottom, _COLOURS["axis"], 0.4)
        yield _text(scale(tick), bottom + 18, tick_text(tick), "middle")
    for number, variant in enumerate(variants):
        middle = _TOP + _ROW * (number + 0.5)
        values = [row[measure] for row in rows if row["variant"] == variant]
        if not values:
            continue
        yield _line(scale(statistics.fmean(values)), middle - 11, middle + 11, _COLOURS["mean"], 2)
        for value in values:
            yield Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}" fill-opacity="0.55"/>'
            ).format(scale(value), middle, _COLOURS["dot"])


def _line(x: float, top: float, bottom: float, colour: str, width: float) -> Markup:
    return Markup(
        '<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" '
        'stroke-width="{width}"/>'
    ).format(x=x, top=top, bottom=bottom, colour=colour, width=width)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}">{}</text>').format(
        x, y, anchor, _COLOURS["text"], text
    )

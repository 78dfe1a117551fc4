"""The figure of the ablation is of the rows that are committed beside it."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.support.ablation_figure import figure

ROOT = Path(__file__).parents[3]
VARIANTS = ["from scratch", "contrastive only", "consistency only", "both"]


def test_the_figure_is_of_the_committed_rows() -> None:
    rows = json.loads((ROOT / "benchmarks/results/digits_ablation.json").read_text())["rows"]
    drawn = (ROOT / "docs/images/digits_ablation.svg").read_text()
    title = re.search("<title>(.*)</title>", drawn)
    assert title is not None
    assert drawn == figure(rows, VARIANTS, "svc_agreement", title[1])
    assert drawn.count("<circle ") == len(rows)


def test_a_dot_for_each_seed_and_a_line_at_their_mean() -> None:
    rows = [
        {"variant": "both", "objective": "denoising", "agreement": value} for value in (0.2, 0.6)
    ]
    drawn = figure(rows, ["both", "none"], "agreement", "A & B")
    dots = [float(place) for place in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    [mean] = re.findall(r'<line x1="([\d.]+)" [^>]* stroke-width="2"/>', drawn)
    assert len(dots) == 2
    assert float(mean) == pytest.approx(statistics.fmean(dots), abs=0.1)
    assert "<title>A &amp; B</title>" in drawn

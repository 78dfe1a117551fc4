from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from epg.report.axes import Scale, linear_ticks, log_ticks, tick_text, value_scale
from epg.report.curves import (
    MAX_POINTS,
    Line,
    curves_html,
    loss_chart,
    loss_lines,
    read_line,
    side_charts,
    spread,
)
from tests.unit.report.example import losses
from tests.unit.report.pages import check_page


def test_a_curves_page_is_one_file_with_every_chart() -> None:
    page = check_page(curves_html(losses(400, ("contrastive", "consistency"), 0, 3.0), "pretrain"))
    titles = ("Loss", "Learning rate", "Gradient norm", "Speed")
    assert all(title in page.text for title in titles)
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    assert "last step 400" in " ".join(page.text.split())


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "loss": 2.0}],
        [{"step": 1, "loss": math.nan}],
        [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}],
        [{"step": 1, "loss": -1e-300}, {"step": 2, "loss": 1e300}],
        [{"step": 1, "loss": math.inf}, {"step": 2, "loss": 1.0}, {"step": 3}],
        [{"loss": "text", "step": None}, {"other": 1}],
        [{"step": k, "loss": 3.0, "learning_rate": 0.0} for k in range(50)],
    ],
    ids=["none", "one", "nan", "zeros", "huge", "inf", "text", "constant"],
)
def test_any_rows_give_a_page_without_nan_in_its_paths(rows: list[dict[str, object]]) -> None:
    html = curves_html(rows, "pretrain")
    check_page(html)
    drawn = re.findall(r' (?:d|x|y)="([^"]*)"', html)
    assert not [path for path in drawn if re.search("nan|inf", path, re.IGNORECASE)]


def test_a_single_point_is_a_dot_with_its_value() -> None:
    chart = loss_chart([{"step": 7, "loss": 2.5}], "one")
    assert 'class="raw c0 few"' in chart.svg
    assert 'class="line' not in chart.svg
    assert "2.50" in chart.svg


def test_a_value_that_is_not_finite_is_marked_and_said() -> None:
    rows = [{"step": k, "loss": math.nan if k == 4 else 1.0 / k} for k in range(1, 20)]
    chart = loss_chart(rows, "loss")
    assert chart.note == "Not finite at step 4."
    assert chart.svg.count('class="broken"') == 1


def test_no_row_at_all_is_said() -> None:
    assert loss_chart([], "loss").note == "No value was logged."


def test_the_last_row_of_a_step_counts_and_order_does_not() -> None:
    rows = [{"step": 2, "loss": 9.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}]
    line = read_line(rows, "loss", "loss")
    assert line is not None
    assert (line.x, line.y) == ([1, 2], [4.0, 3.0])


def test_a_single_term_that_is_the_total_is_not_drawn_twice() -> None:
    same = [{"step": k, "loss": 1.0 / k, "loss_denoising": 1.0 / k} for k in (1, 2)]
    assert [line.name for line in loss_lines(same)] == ["loss"]
    other = [{"step": k, "loss": 1.0 / k, "loss_a_b": 2.0, "loss_c": 3.0} for k in (1, 2)]
    assert [line.name for line in loss_lines(other)] == ["total", "a b", "c"]


def test_smoothing_keeps_a_constant_and_a_straight_line() -> None:
    x = [float(k) for k in range(100)]
    assert Line("l", x, [2.0] * 100).smooth == pytest.approx([2.0] * 100)
    assert Line("l", x, x).smooth[10:90] == pytest.approx(x[10:90])
    assert Line("l", x[:5], [1.0, 9.0, 1.0, 9.0, 1.0]).smooth == [1.0, 9.0, 1.0, 9.0, 1.0]


def test_a_wide_positive_loss_gets_a_log_axis_and_a_learning_rate_never() -> None:
    rows = [{"step": k, "loss": 10.0 ** (-k / 20), "learning_rate": 10.0**-k} for k in range(60)]
    assert loss_chart(rows, "loss").axis == "log scale"
    assert side_charts(rows)[0].axis == ""
    narrow = [{"step": k, "loss": 1.0 + 1 / (k + 1)} for k in range(60)]
    assert loss_chart(narrow, "loss").axis == ""


def test_a_long_run_stays_small() -> None:
    rows = [{"step": k, "loss": 1.0 + 1 / (k + 1)} for k in range(60_000)]
    svg = loss_chart(rows, "loss").svg
    assert svg.count("h0") <= MAX_POINTS
    assert len(svg) < 20_000


def test_one_spike_does_not_flatten_the_rest() -> None:
    raw = [1.0 + 0.1 * math.sin(k) for k in range(200)] + [1e6]
    scale = value_scale([1.0, 1.1], raw, 200, 0)
    assert scale.high < 2


def test_ticks_are_round_numbers_inside_the_scale() -> None:
    assert linear_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert linear_ticks(-3, 1200) == [0, 500, 1000]
    assert log_ticks(0.001, 1000) == pytest.approx([10.0**k for k in range(-3, 4)])
    assert log_ticks(0.15, 5.2) == pytest.approx([0.2, 0.5, 1, 2, 5])
    assert 2 <= len(Scale(1e-9, 1e9, 0, 1, log=True).ticks()) <= 7
    texts = [tick_text(v) for v in (0, 0.25, 1500, 20_000, 6e5, 1.5e6, 1e-5, 0.001)]
    assert texts == ["0", "0.25", "1500", "20k", "600k", "1.5M", "1e-5", "0.001"]


def test_labels_do_not_overlap_and_stay_inside() -> None:
    placed = spread([100, 101, 102, 190], 10, 195, 26)
    assert all(b - a >= 26 - 1e-9 for a, b in pairwise(placed))
    assert min(placed) >= 10
    assert max(placed) <= 195
    crowded = spread([50.0] * 5, 10, 60, 26)
    assert crowded == pytest.approx([10, 22.5, 35, 47.5, 60])


def test_hostile_terms_and_titles_are_text() -> None:
    rows = [{"step": 1, "loss": 1.0, "loss_</svg><script>x": 2.0, "loss_{{ 7*7 }}": 3.0}]
    page = check_page(curves_html(rows, "</title><script>alert(1)</script>"))
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text

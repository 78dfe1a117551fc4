"""Published rows: what is printed stands there, what is not known is blank."""

from __future__ import annotations

import pytest

from epg.published import (
    MARKS,
    PUBLISHED,
    TABLES,
    published,
    published_as,
    published_table,
)


def test_the_papers_own_rows() -> None:
    rows = {row.method: row for row in PUBLISHED if row.parameters}
    assert {name: row.fid for name, row in rows.items()} == {
        "EPG-XL/16": "2.04",
        "EPG-XXL/16": "1.87 (1.81‡)",
        "EPG-G/16": "1.58",
        "EPG-L/16": "8.82",
        "EPG-L/32": "2.35",
    }
    for row in rows.values():
        assert row.source == "arXiv 2510.12586"
        assert published_as(row.parameters) is row
        printed = float(row.params.rstrip("M†"))
        assert abs(row.parameters / 1e6 - printed) < 1  # the count that was printed


def test_a_model_that_was_not_published_has_no_row() -> None:
    assert published_as(897_220) is None
    assert published_as(0) is None


def test_every_row_has_a_figure_a_place_and_a_known_mark() -> None:
    assert len({(row.table, row.method) for row in PUBLISHED}) == len(PUBLISHED)
    for row in PUBLISHED:
        assert row.table in TABLES
        assert row.fid
        assert row.mark in ("", *MARKS)
    for table in TABLES:
        rows = published(table)
        assert rows[0].method.startswith("EPG")
        assert len(rows) > 5


@pytest.mark.parametrize(
    ("size", "one_step", "table"),
    [(256, False, "256"), (256, True, "256-few-steps"), (512, False, "512"), (512, True, None)],
)
def test_which_table_a_model_stands_beside(size: int, one_step: bool, table: str | None) -> None:
    assert published_table(size, one_step=one_step) == table
    assert published_table(8) is None

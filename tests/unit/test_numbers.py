from __future__ import annotations

import pytest

from epg.numbers import duration, percent, short, significant, whole


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (3.4149, "3.41"),
        (12345.6, "12,346"),
        (0, "0"),
        (None, "–"),
        (float("nan"), "not finite"),
    ],
)
def test_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_shares_counts_and_large_numbers() -> None:
    assert (percent(0.9621), short(1_214_468), whole(63.0)) == ("96.2 %", "1.21 M", "63")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (134, "2 min 14 s"),
        (3599.6, "1 h 00 min"),
        (11220, "3 h 07 min"),
        (None, "–"),
    ],
)
def test_a_duration_says_its_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text

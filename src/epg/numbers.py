"""Numbers as a reader wants them: few digits, units, plain words.

The report, the console and the model card write theirs here, so that they agree.
"""

from __future__ import annotations

import math
from typing import Any

_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def finite(value: Any) -> float | None:
    """Return the value as a float, or None when it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def significant(value: Any, digits: int = 3) -> str:
    """Write a number with `digits` significant digits: `0.0123`, `1.23`, `12,346`."""
    number = finite(value)
    if number is None:
        return "not finite" if isinstance(value, float) else "–"
    if number == 0:
        return "0"
    size = math.floor(math.log10(abs(number)))
    if size >= 15 or size < -4:
        return f"{number:.{digits - 1}e}"
    return f"{number:,.{max(0, digits - 1 - size)}f}"


def decimals(value: Any, places: int) -> str:
    """Write a number with a fixed count of decimals, so that a column can be compared."""
    number = finite(value)
    return significant(value) if number is None else f"{number:,.{places}f}"


def percent(value: Any) -> str:
    """Write a fraction as a percentage with one decimal: `96.2 %`."""
    number = finite(value)
    return significant(value) if number is None else f"{100 * number:.1f} %"


def whole(value: Any) -> str:
    """Write a count: `1,000`; a mean count that is not whole keeps its decimals."""
    number = finite(value)
    if number is None or number.is_integer():
        return significant(value) if number is None else f"{number:,.0f}"
    return significant(number)


def short(value: Any) -> str:
    """Write a large number with a suffix: `1.23 M`, `600 k`."""
    number = finite(value)
    if number is not None:
        for factor, suffix in _SUFFIXES:
            if abs(number) >= factor:
                return f"{significant(number / factor)} {suffix}"
    return whole(value)


def duration(seconds: Any) -> str:
    """Write seconds in words: `0.4 s`, `42 s`, `2 min 14 s`, `3 h 07 min`."""
    number = finite(seconds)
    if number is None:
        return "–"
    if number < 9.95:
        return f"{number:.1f} s"
    total = round(number)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"

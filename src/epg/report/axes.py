"""Scales of a chart: from data to pixels, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_RATIO = 20.0  # a positive series that spans more than this is drawn on a log axis


@dataclass(frozen=True)
class Scale:
    """A mapping of [low, high] to [start, end] pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value (for a log scale: positive)."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round numbers inside the scale, three to seven of them."""
        found = log_ticks(self.low, self.high) if self.log else []
        return found if len(found) >= 2 else linear_ticks(self.low, self.high)


def linear_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten inside [low, high]."""
    raw = (high - low) / target
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten inside [low, high], with 2 and 5 between them when there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**e for e in exponents for f in factors]
        found = [v for v in found if low * 0.999 <= v <= high * 1.001]
        if len(found) >= 4 or factors == (1, 2, 5):
            break
    stride = math.ceil(len(found) / 7)
    return found[::stride]


def tick_text(value: float) -> str:
    """Write a tick: `0`, `0.25`, `1.5`, `20k`, `1e-5`."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e12:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= factor:
            return f"{value / (1e3 if suffix == 'k' else factor):.6g}{suffix}"
    return f"{value:.6g}"


def position_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return the linear scale of the steps; a single step sits in the middle."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1, high + 1
    return Scale(low, high, start, end)


def value_scale(
    smooth: Sequence[float],
    raw: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool = True,
) -> Scale:
    """Return the scale of the values: all of the smooth lines and the bulk of the raw points.

    The outermost 2 % of the raw points may fall outside: one spike must not flatten the rest.
    The axis is logarithmic where that helps and `log` allows it.
    """
    ordered = sorted(raw)
    cut = len(ordered) // 50
    low = min(*smooth, ordered[cut]) if smooth else ordered[cut]
    high = max(*smooth, ordered[-1 - cut]) if smooth else ordered[-1 - cut]
    if log and min(smooth, default=0) > 0 and max(smooth) / min(smooth) >= LOG_RATIO:
        low = max(low, min(smooth) / 3) if low > 0 else min(smooth) / 3
        return Scale(low / 1.15, high * 1.15, start, end, log=True)
    if low == high:
        room = abs(low) * 0.5 or 1.0
        return Scale(low - room, high + room, start, end)
    room = 0.06 * (high - low)
    if 0 <= low < 0.35 * high:
        return Scale(0.0, high + room, start, end)
    return Scale(low - room, high + room, start, end)

"""Types that recipes are made of: what a number, a pair or a list may be is part of its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: strict types, no unknown keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _integral(value: Any) -> Any:
    """Accept 5.0 for 5: Kubeflow compiles every number of a default to a double."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _tuple(value: Any) -> Any:
    """Take YAML's and JSON's lists; a frozen recipe holds tuples."""
    return tuple(value) if isinstance(value, list) else value


def _ascending(pair: tuple[float, ...]) -> tuple[float, ...]:
    if pair[0] > pair[1]:
        raise ValueError("[low, high] with low <= high")
    return pair


def _interval(pair: tuple[float, ...]) -> tuple[float, ...]:
    if not 0 <= pair[0] < pair[1]:
        raise ValueError("[low, high] with 0 <= low < high")
    return pair


def _jitter(strengths: tuple[float, ...]) -> tuple[float, ...]:
    if strengths[3] > 0.5:
        raise ValueError("the fourth, hue, is at most 0.5, half of the circle")
    return strengths


def _drops(value: Any) -> Any:
    """Take the keys as numbers or, from JSON, as text; in ascending order."""
    if not isinstance(value, Mapping):
        return value
    drops = {}
    for place, factor in value.items():
        try:
            number = float(place)
        except (TypeError, ValueError):
            number = -1.0
        whole = number >= 1.0 and number.is_integer()
        if isinstance(place, bool) or not (0.0 < number < 1.0 or whole):
            raise ValueError(
                f"the key {place!r} must be a fraction of training between 0 and 1, or a step"
            )
        drops[number] = factor
    if drops and min(drops) < 1.0 <= max(drops):
        raise ValueError("its keys are fractions of training or steps, not both")
    return dict(sorted(drops.items()))


def _rates(value: Any) -> Any:
    """Take one rate alone, or in a list, as itself."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) == 1:
        return value[0]
    if not value or len(set(value)) < len(value):
        raise ValueError("one rate, or a list of different ones")
    return tuple(value)


def _bounds(bounds: dict[Any, float]) -> dict[Any, float]:
    if "min" in bounds and "max" in bounds and bounds["min"] > bounds["max"]:
        raise ValueError("min must not exceed max, no value is both")
    return bounds


_TwoItems = Field(min_length=2, max_length=2)

#: Counts are bounded far above any use: what is built or looped over by them must end.
Positive = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=10**9)]
Natural = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=2**31 - 1)]
AtLeastTwo = Annotated[int, BeforeValidator(_integral), Field(ge=2, le=10**6)]
#: Blocks, heads, neighbours.
Few = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=1_000)]
#: Widths of layers, pixels, images at once.
Size = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=65_536)]
#: Of JPEG.
Quality = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=100)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]

#: One value, or one per channel.
Means = Annotated[tuple[Fraction, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=3)]
Deviations = Annotated[
    tuple[PositiveFloat, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=3)
]
#: Exponential decay rates of AdamW's two moments.
Betas = Annotated[tuple[BelowOne, ...], BeforeValidator(_tuple), _TwoItems]
#: [low, high], both at least 0.
Range = Annotated[
    tuple[NonNegative, ...], BeforeValidator(_tuple), _TwoItems, AfterValidator(_ascending)
]
#: [low, high] of noise levels, low < high.
Interval = Annotated[
    tuple[float, ...], BeforeValidator(_tuple), _TwoItems, AfterValidator(_interval)
]
#: A probability for each of the two views.
PerView = Annotated[tuple[Fraction, ...], BeforeValidator(_tuple), _TwoItems]
#: Strengths of brightness, contrast, saturation and hue.
Jitter = Annotated[
    tuple[NonNegative, ...],
    BeforeValidator(_tuple),
    Field(min_length=4, max_length=4),
    AfterValidator(_jitter),
]
#: Names or numbers of classes.
ClassList = Annotated[
    tuple[str | Natural, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=100_000)
]
Levels = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_tuple)]
#: Fraction of training, or step -> factor on the learning rate from there.
Drops = Annotated[dict[float, NonNegative], BeforeValidator(_drops)]
#: One decay rate of a moving average, or several at once.
EmaDecay = Annotated[
    Fraction | Annotated[tuple[Fraction, ...], Field(max_length=8)], BeforeValidator(_rates)
]
#: What a figure must reach: values, or how much worse than the registered champion's it may be,
#: as a part of that (0.02: 2 %; negative: it must be better).
Bounds = Annotated[dict[Literal["min", "max", "champion"], float], AfterValidator(_bounds)]

"""How far a Fréchet distance of few images can be trusted: its spread, and its limit.

Shapes: `N` feature rows, `D` feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.moments import Moments

#: Below this many images a distance comes with an interval, and a warning.
FEW_IMAGES = 10_000
RESAMPLINGS = 30
_POINTS = 15  # sizes from a tenth of the images to all of them
_Z95 = 1.96

OnStep = Callable[[int, int], None]


def bootstrap_interval(
    real: Moments, features: NDArray[Any], seed: int, resamplings: int = RESAMPLINGS
) -> tuple[float, float]:
    """Return a 95 % interval of the distance from `real` to a set of features [N, D].

    The set is drawn anew from itself, with replacement. Drawn sets have fewer different rows and
    lie farther away, all by about the same, so it is their spread that is used, not their place:
    distance ± 1.96 standard deviations of the drawn distances.
    """
    rng = np.random.default_rng(seed)
    count = len(features)
    drawn = [
        frechet_distance(real, Moments.of(features[rng.integers(0, count, count)]))
        for _ in range(resamplings)
    ]
    distance = frechet_distance(real, Moments.of(features))
    half = _Z95 * float(np.std(drawn, ddof=1))
    return max(distance - half, 0.0), distance + half


def limit_of_many(
    real: Moments, features: NDArray[Any], seed: int, on_step: OnStep | None = None
) -> float:
    """Return the distance from `real` that infinitely many images would have: FID∞.

    The bias of a distance is proportional to 1/N: a line through distances at 15 sizes of subsets
    of the features [N, D] against 1/N is followed to 0. May be slightly negative.

    Source: docs/method.md, 8.6; Chong and Forsyth 2020, section 3.
    """
    rng = np.random.default_rng(seed)
    sizes = np.linspace(max(len(features) // 10, 2), len(features), _POINTS).astype(int)
    distances = []
    for done, size in enumerate(sizes, 1):
        rows = features[rng.choice(len(features), size, replace=False)]
        distances.append(frechet_distance(real, Moments.of(rows)))
        if on_step is not None:
            on_step(done, len(sizes))
    _, limit = np.polyfit(1.0 / sizes, distances, 1)
    return float(limit)

"""What one network has seen of a part of a set of images; parts in any order make the whole.

Shapes: `n` images of the part, `m` of them with kept features, `D` feature width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epg.evaluation.features.base import Description
from epg.evaluation.metrics.inception_score import ScoreSums, joined
from epg.evaluation.metrics.moments import Scatter

Arrays = dict[str, NDArray[Any]]
_ROWS = ("index", "features", "predicted", "confidence")


@dataclass(frozen=True)
class Seen:
    """A part, as one network saw it.

    Attributes:
        pool: what it adds to the moments of the pooled features.
        spatial: the same of the spatial features, or None.
        index: number of each image in the set, int64 [n].
        features: pooled features float32 [m, D] of the images whose number is below the bound.
        predicted: int64 [n]; see `Description`.
        confidence: float32 [n]; likewise.
        splits: what it adds to the inception score.
    """

    pool: Scatter
    spatial: Scatter | None
    index: NDArray[np.int64]
    features: NDArray[np.float32]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    splits: Mapping[int, ScoreSums]

    @classmethod
    def described(cls, parts: Sequence[Seen]) -> Description:
        """Join parts that make a whole set.

        They are joined by their first image's number, so that the order in which they came about
        changes no bit.
        """
        parts = sorted(parts, key=lambda part: int(part.index[0]))
        pool = Scatter.joined(part.pool for part in parts)
        places = [part.spatial for part in parts if part.spatial is not None]
        features = np.concatenate([part.features for part in parts])
        moments = pool.moments()
        if len(features) == pool.count:
            moments = replace(moments, features=features)
        return Description(
            moments,
            Scatter.joined(places).moments() if places else None,
            features,
            np.concatenate([part.predicted for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            joined(part.splits for part in parts),
        )

    def arrays(self) -> Arrays:
        """Return it as arrays by name, which `of` reads back."""
        found: Arrays = {name: getattr(self, name) for name in _ROWS}
        for name in ("pool", "spatial"):
            scatter = getattr(self, name)
            if scatter is not None:
                found |= {
                    f"{name}_count": np.array(scatter.count),
                    f"{name}_mean": scatter.mean,
                    f"{name}_products": scatter.products,
                }
        splits = sorted(self.splits)
        sums = [self.splits[split] for split in splits]
        found["split"] = np.array(splits, np.int64)
        found["split_count"] = np.array([s.count for s in sums], np.int64)
        probabilities = [s.probabilities for s in sums] or [np.zeros(0)]
        found["split_probabilities"] = np.stack(probabilities)[: len(sums)]
        found["split_negentropy"] = np.array([s.negentropy for s in sums], np.float64)
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Seen:
        """Read what `arrays` gave. Raises `ValueError` or `KeyError` for anything else."""
        count = len(arrays["index"])
        pool = _scatter(arrays, "pool")
        spatial = _scatter(arrays, "spatial") if "spatial_mean" in arrays else None
        for scatter in (pool, spatial):
            if scatter is not None and scatter.count != count:
                raise ValueError(f"sums of {scatter.count} images, {count} are listed")
        for name in ("predicted", "confidence"):
            if arrays[name].shape != (count,):
                raise ValueError(f"{name} of shape {arrays[name].shape} for {count} images")
        if arrays["features"].ndim != 2 or arrays["features"].shape[1] != len(pool.mean):
            raise ValueError(f"features of shape {arrays['features'].shape}")
        splits = {
            int(split): ScoreSums(int(n), p, float(e))
            for split, n, p, e in zip(
                arrays["split"],
                arrays["split_count"],
                arrays["split_probabilities"],
                arrays["split_negentropy"],
                strict=True,
            )
        }
        rows = {name: arrays[name] for name in _ROWS}
        return cls(pool=pool, spatial=spatial, splits=splits, **rows)


def _scatter(arrays: Mapping[str, NDArray[Any]], name: str) -> Scatter:
    mean, products = arrays[f"{name}_mean"], arrays[f"{name}_products"]
    if mean.ndim != 1 or products.shape != (len(mean), len(mean)):
        raise ValueError(f"{name} of shapes {mean.shape} and {products.shape}")
    return Scatter(int(arrays[f"{name}_count"]), mean, products)

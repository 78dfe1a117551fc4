"""Figures from what networks saw in real and in generated images.

Shapes: `N` images, `D` feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epg.config.evaluating import EvaluateConfig
from epg.evaluation.features.base import Description, FeatureNetwork, Statistics
from epg.evaluation.metrics.manifold import compare_manifolds
from epg.evaluation.metrics.uncertainty import FEW_IMAGES, bootstrap_interval, limit_of_many

_ENOUGH = 10  # images per feature; below that the bias of a distance is warned of
#: Figures that are Fréchet distances in pooled features, by the network that gives them.
DISTANCES = {
    "inception": "fid",
    "classifier": "frechet_distance",
    "dinov2": "frechet_distance_dinov2",
}


@dataclass
class Verdicts:
    """What was found: figures by name, what else there is to say, and warnings."""

    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judging:
    """How figures are taken.

    Attributes:
        settings: of the recipe.
        networks: name in the recipe -> who looked; the first one's figures bear plain names.
        seed: of resampling.
        device: where distances between many rows are computed.
        on_step: called with (done, total) while the slow ones are computed.
    """

    settings: EvaluateConfig
    networks: Mapping[str, FeatureNetwork]
    seed: int
    device: torch.device | str = "cpu"
    on_step: Callable[[int, int], None] | None = None

    def figures(
        self,
        real: Mapping[str, Statistics],
        found: Mapping[str, Description],
        labels: NDArray[np.int64],
    ) -> Verdicts:
        """Return all figures in the features of all networks.

        Args:
            real: what each network sees in real images.
            found: what it sees in generated ones.
            labels: classes that these were asked for, int64 [N].
        """
        verdicts = Verdicts()
        for position, (kind, network) in enumerate(self.networks.items()):
            suffix = f"_{kind}" if position else ""
            figures = network.compare(real[kind], found[kind], labels)
            verdicts.metrics |= figures.metrics
            verdicts.details |= figures.details
            verdicts.metrics |= self._manifold(real[kind], found[kind], suffix)
            self._trust(kind, real[kind], found[kind], verdicts)
        return verdicts

    def _manifold(self, real: Statistics, found: Description, suffix: str) -> dict[str, float]:
        rows = [torch.from_numpy(each.features).to(self.device) for each in (real, found)]
        figures: dict[str, float] = {}
        if min(map(len, rows)) > self.settings.neighbours:  # a reference may have no images
            figures |= compare_manifolds(rows[0], rows[1], self.settings.neighbours)._asdict()
        spread = float(np.trace(real.moments.covariance))
        own = float(np.trace(found.moments.covariance))
        figures["variety"] = own / spread if spread > 0 else float("nan")
        return {f"{name}{suffix}": value for name, value in figures.items()}

    def _trust(self, kind: str, real: Statistics, found: Description, verdicts: Verdicts) -> None:
        """Say how far the distance can be trusted: an interval of few images, and the limit."""
        name = DISTANCES.get(kind)
        count, width = found.moments.count, len(found.moments.mean)
        if name is None or not np.isfinite(verdicts.metrics.get(name, np.nan)):
            return
        if count < FEW_IMAGES and count == len(found.features) > 1:
            interval = bootstrap_interval(real.moments, found.features, self.seed)
            verdicts.details.setdefault("intervals", {})[name] = list(interval)
        if count < _ENOUGH * width:
            few = "fewer than" if count < width else "few for"
            verdicts.warnings.append(
                f"{name} of {count:,} images, {few} its {width:,} features: it lies above what "
                "more images would give, and is compared only with figures of as many"
            )
        if name == "fid" and self.settings.fid_infinity:
            features = found.features
            limit = limit_of_many(real.moments, features, self.seed, self.on_step)
            verdicts.metrics["fid_infinity"] = limit

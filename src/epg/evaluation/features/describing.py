"""One pass over a set of images, whichever networks look at them.

Shapes: `B` batch, `N` images, `H W C` pixels, `D` feature width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.evaluation.features.base import FeatureNetwork, Features
from epg.evaluation.features.seen import Seen
from epg.evaluation.metrics.inception_score import ScoreSums, joined, score_sums
from epg.evaluation.metrics.moments import MomentAccumulator, Scatter
from epg.evaluation.precision import full_precision

#: Images that a network sees at once: the k-th group of a set is the same images however they
#: arrive, because another group would round their features otherwise.
GROUP = 64


class Describer:
    """Gathers what networks see in images that come span by span, in any order of spans.

    Memory: the sums of each network (8·D² bytes, and the same of the spatial features), and the
    features of images whose number is below `keep` (4·D bytes each).
    """

    def __init__(self, networks: Sequence[FeatureNetwork], keep: int) -> None:
        """Start with nothing seen.

        Args:
            networks: who looks; every one of them sees every image.
            keep: rows of features to keep, for precision and recall.
        """
        self._networks = list(networks)
        self._keep = keep
        self._sums = [_Sums(keep) for _ in networks]

    @full_precision()
    @torch.inference_mode()
    def add(self, images: Tensor, labels: NDArray[np.int64], first: int) -> list[Tensor]:
        """Look at a span of images.

        Args:
            images: uint8 [B, H, W, C] on the networks' device.
            labels: what they were asked for or are, int64 [B].
            first: number of the first of them in the set; a multiple of `GROUP`.

        Returns:
            each network's `confidence` in the labels, float32 [B] on the CPU.
        """
        assert first % GROUP == 0
        sure: list[list[Tensor]] = [[] for _ in self._networks]
        for start in range(0, len(images), GROUP):
            group = images[start : start + GROUP]
            of_group = torch.from_numpy(labels[start : start + GROUP]).to(images.device)
            for network, sums, own in zip(self._networks, self._sums, sure, strict=True):
                own.append(sums.add(network.describe(group), of_group, first + start))
        return [torch.cat(own) for own in sure]

    def scatters(self) -> list[Scatter]:
        """Return the sums of each network's pooled features so far."""
        return [sums.scatter() for sums in self._sums]

    def seen(self) -> list[Seen]:
        """Return what each network has seen so far."""
        return [sums.seen() for sums in self._sums]


class _Sums:
    """What one network has seen so far."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._pool: MomentAccumulator | None = None
        self._spatial: MomentAccumulator | None = None
        self._rows: dict[str, list[Tensor]] = {
            name: [] for name in ("index", "features", "predicted", "confidence")
        }
        self._splits: dict[int, ScoreSums] = {}

    def add(self, found: Features, labels: Tensor, first: int) -> Tensor:
        """Take in a group; returns its `confidence`."""
        self._pool = self._pool or MomentAccumulator(found.pool.shape[1])
        self._pool.add(found.pool)
        if found.spatial is not None:
            self._spatial = self._spatial or MomentAccumulator(found.spatial.shape[1])
            self._spatial.add(found.spatial)
        rows = {
            "index": torch.arange(first, first + len(found.pool)),
            "features": found.pool[: max(self._keep - first, 0)].float(),
            "predicted": torch.full_like(labels, -1),
            "confidence": torch.full(labels.shape, float("nan")),
        }
        if found.logits is not None:
            logits = found.logits.float()
            self._splits = joined([self._splits, score_sums(logits, first)])
            rows |= {"predicted": logits.argmax(1), "confidence": confidence(logits, labels)}
        for name, values in rows.items():
            self._rows[name].append(values.cpu())
        return self._rows["confidence"][-1]

    def scatter(self) -> Scatter:
        assert self._pool is not None
        return self._pool.scatter()

    def seen(self) -> Seen:
        rows: dict[str, Any] = {name: torch.cat(v).numpy() for name, v in self._rows.items()}
        return Seen(
            pool=self.scatter(),
            spatial=self._spatial.scatter() if self._spatial else None,
            splits=self._splits,
            **rows,
        )


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the classes [N] by logits [N, K]; NaN for a class beyond K."""
    known = (labels >= 0) & (labels < logits.shape[1])
    place = torch.where(known, labels, 0)
    found = logits.log_softmax(1).gather(1, place[:, None])[:, 0]
    return torch.where(known, found, float("nan"))

"""One pass over a set of images, whichever networks look at them.

Shapes: `B` batch, `N` images, `H W C` pixels, `D` feature width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.evaluation.features.base import Description, FeatureNetwork, Features
from epg.evaluation.frechet import MomentAccumulator
from epg.evaluation.precision import full_precision


@full_precision()
@torch.inference_mode()
def describe(
    networks: Sequence[FeatureNetwork],
    batches: Iterable[NDArray[np.uint8]],
    *,
    device: torch.device | str = "cpu",
    keep: int = 50_000,
    on_batch: Callable[[int], None] | None = None,
) -> list[Description]:
    """Look at uint8 batches [B, H, W, C] once; only features and sums stay in memory.

    Args:
        networks: who looks; each batch goes to every one of them.
        batches: all images, in batches of any size.
        device: where the networks lie.
        keep: rows of features to keep, for precision and recall.
        on_batch: called with the number of images seen so far.

    Returns:
        one description per network.
    """
    sums = [_Sums(keep) for _ in networks]
    seen = 0
    for images in batches:
        pixels = torch.tensor(images, device=device)
        for network, own in zip(networks, sums, strict=True):
            own.add(network.describe(pixels))
        seen += len(images)
        if on_batch is not None:
            on_batch(seen)
    if not seen:
        raise ValueError("no images to describe")
    return [own.description() for own in sums]


class _Sums:
    """What one network has seen so far."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._pool: MomentAccumulator | None = None
        self._spatial: MomentAccumulator | None = None
        self._features: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._seen = 0

    def add(self, found: Features) -> None:
        self._pool = self._pool or MomentAccumulator(found.pool.shape[1])
        self._pool.add(found.pool)
        if found.spatial is not None:
            self._spatial = self._spatial or MomentAccumulator(found.spatial.shape[1])
            self._spatial.add(found.spatial)
        self._features.append(found.pool[: max(self._keep - self._seen, 0)].float().cpu())
        self._logits.append(found.logits.float().cpu())
        self._seen += len(found.pool)

    def description(self) -> Description:
        assert self._pool is not None
        features: NDArray[Any] = torch.cat(self._features).numpy()
        moments = self._pool.moments()
        if self._seen <= self._keep:
            moments = replace(moments, features=features)
        return Description(
            moments,
            self._spatial.moments() if self._spatial else None,
            features,
            torch.cat(self._logits).numpy(),
        )

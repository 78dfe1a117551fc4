"""One way to describe a set of images, whichever network looks at them.

Shapes: `N` images, `D` feature width, `S` width of the spatial features, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.evaluation.frechet import MomentAccumulator, Moments


class Features(NamedTuple):
    """What a network says of N images.

    Attributes:
        pool: penultimate features [N, D]: Fréchet distance, precision and recall.
        logits: [N, K]; Inception's are without the bias, for the inception score.
        spatial: features with places [N, S], for sFID; None where a network has none.
    """

    pool: Tensor
    logits: Tensor
    spatial: Tensor | None = None


Network = Callable[[Tensor], Features]


@dataclass(frozen=True)
class Description:
    """A set of images in a network's features.

    Attributes:
        moments: mean and covariance of `pool`, over all images.
        spatial: the same of the spatial features, or None.
        features: `pool` of the first images, float32 [≤ keep, D].
        logits: of all images, float32 [N, K].
    """

    moments: Moments
    spatial: Moments | None
    features: NDArray[np.float32]
    logits: NDArray[np.float32]


@torch.inference_mode()
def describe(
    network: Network,
    batches: Iterable[NDArray[np.uint8]],
    *,
    device: torch.device | str = "cpu",
    keep: int = 50_000,
    on_batch: Callable[[int], None] | None = None,
) -> Description:
    """Look at uint8 batches [B, H, W, C] once; only features and sums stay in memory.

    Args:
        network: uint8 images on `device` -> `Features`.
        batches: all images, in batches of any size.
        device: where the network lies.
        keep: rows of features to keep, for precision and recall.
        on_batch: called with the number of images seen so far.
    """
    sums: MomentAccumulator | None = None
    spatial_sums: MomentAccumulator | None = None
    kept: list[Tensor] = []
    logits: list[Tensor] = []
    seen = 0
    for images in batches:
        found = network(torch.tensor(images, device=device))
        sums = sums or MomentAccumulator(found.pool.shape[1])
        sums.add(found.pool)
        if found.spatial is not None:
            spatial_sums = spatial_sums or MomentAccumulator(found.spatial.shape[1])
            spatial_sums.add(found.spatial)
        kept.append(found.pool[: max(keep - seen, 0)].float().cpu())
        logits.append(found.logits.float().cpu())
        seen += len(images)
        if on_batch is not None:
            on_batch(seen)
    if sums is None:
        raise ValueError("no images to describe")
    features: NDArray[Any] = torch.cat(kept).numpy()
    moments = sums.moments()
    if seen <= keep:
        moments = replace(moments, features=features)
    return Description(
        moments,
        spatial_sums.moments() if spatial_sums else None,
        features,
        torch.cat(logits).numpy(),
    )

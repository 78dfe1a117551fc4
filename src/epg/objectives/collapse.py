"""Has pre-training collapsed? Two signs that must come together.

Shape letters: N batch, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def feature_deviation(features: Tensor) -> Tensor:
    """Return sqrt(D) times the mean over dimensions of the deviation of z / |z| [N, D], a scalar.

    1 where directions are spread evenly, 0 where all images have the same features.

    Source: docs/method.md, 2.4; Chen and He 2021.
    """
    directions = F.normalize(features.float(), dim=1)
    deviations = directions.std(dim=0, correction=0)
    return math.sqrt(features.shape[1]) * deviations.mean()


def is_collapsed(info_nce: float, keys: int, deviation: float) -> bool:
    """Tell whether InfoNCE is at ln M, where it cannot tell M keys apart, and features are one.

    The loss alone is also at ln M when a training begins, or at a high temperature; the deviation
    alone is small where few dimensions carry everything.

    Args:
        info_nce: one term, in nats.
        keys: M, the global batch.
        deviation: `feature_deviation`.

    Source: docs/method.md, 2.4.
    """
    return abs(info_nce - math.log(keys)) < 0.01 * math.log(keys) and deviation < 0.01

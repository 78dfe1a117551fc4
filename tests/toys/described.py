"""What networks see in images that lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from epg.evaluation.features.base import Description, FeatureNetwork
from epg.evaluation.features.describing import GROUP, Describer
from epg.evaluation.features.seen import Seen
from epg.protocol import SAMPLE_FEATURES


def describe(
    networks: Sequence[FeatureNetwork],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    keep: int = SAMPLE_FEATURES,
    span: int = GROUP,
) -> list[Description]:
    """Look at uint8 images [N, H, W, C] of the classes int64 [N], `span` at a time."""
    describer = Describer(networks, keep)
    for start in range(0, len(images), span):
        end = start + span
        describer.add(torch.from_numpy(images[start:end]), labels[start:end], start)
    return [Seen.described([part]) for part in describer.seen()]

"""The inception score, from sums: no more than one row of probabilities per split is kept.

Shapes: `N` images, `K` classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPLIT_SIZE = 5000


@dataclass(frozen=True)
class ScoreSums:
    """What the images of one split add to its score, or a part of them does.

    Attributes:
        count: images.
        probabilities: float64 [K], sum of p(y|x).
        negentropy: sum over images of Σ_y p(y|x)·log p(y|x).
    """

    count: int
    probabilities: NDArray[np.float64]
    negentropy: float

    def __add__(self, other: ScoreSums) -> ScoreSums:
        """Join two parts."""
        return ScoreSums(
            self.count + other.count,
            self.probabilities + other.probabilities,
            self.negentropy + other.negentropy,
        )

    @property
    def divergence(self) -> float:
        """Mean over the images of KL(p(y|x) ‖ p(y))."""
        marginal = self.probabilities / self.count
        seen = marginal > 0  # 0·log 0 = 0: classes that no image has contribute nothing
        entropy = float((marginal[seen] * np.log(marginal[seen])).sum())
        return self.negentropy / self.count - entropy


def score_sums(
    logits: Tensor, first: int = 0, split_size: int = SPLIT_SIZE
) -> dict[int, ScoreSums]:
    """Return number of a split -> sums, of the images `first` ... of a series.

    Args:
        logits: [N, K].
        first: number of the first of these images in the series.
        split_size: images of a split.
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    negentropy = torch.where(p > 0, p * log_p, 0.0).sum(1)
    found = {}
    start = 0
    while start < len(logits):
        split = (first + start) // split_size
        end = min(len(logits), (split + 1) * split_size - first)
        part = slice(start, end)
        found[split] = ScoreSums(
            end - start, p[part].sum(0).cpu().numpy(), float(negentropy[part].sum())
        )
        start = end
    return found


def joined(parts: Iterable[Mapping[int, ScoreSums]]) -> dict[int, ScoreSums]:
    """Return the sums of all parts together."""
    found: dict[int, ScoreSums] = {}
    for part in parts:
        for split, sums in part.items():
            found[split] = found[split] + sums if split in found else sums
    return found


def score(splits: Mapping[int, ScoreSums]) -> float:
    """Exponential of the mean KL divergence of p(y|x) from p(y), averaged over splits.

    1 when every image looks the same to the network, K for sharp predictions of K balanced
    classes.

    Source: docs/method.md, 8.2; Salimans et al. 2016, section 4; Dhariwal and Nichol 2021.
    """
    return float(np.mean([np.exp(sums.divergence) for sums in splits.values()]))


def inception_score(logits: NDArray[Any] | Tensor, split_size: int = SPLIT_SIZE) -> float:
    """Return the score of images whose logits [N, K] lie in memory; see `score`.

    Logits are without the layer's bias for comparison with published figures.
    """
    return score(score_sums(torch.as_tensor(logits), 0, split_size))

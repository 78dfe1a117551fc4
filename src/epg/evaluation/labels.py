"""Which classes are asked for in an evaluation."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epg.diffusion.seeds import derive_seed

#: `unknown` is of samples that others made.
Rule = Literal["balanced", "random"]


def drawn_labels(rule: str, count: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    """Return labels int64 [N].

    `balanced` goes round the classes: 0, 1, …, K - 1, 0, 1, and so on, so that every stretch of
    them has all classes in equal number. `random` draws each of them, all classes alike.
    """
    if rule == "balanced":
        return np.arange(count, dtype=np.int64) % num_classes
    rng = np.random.default_rng(derive_seed(seed, "labels"))
    return rng.integers(0, num_classes, count, dtype=np.int64)


def labels_rule(labels: NDArray[np.int64], num_classes: int) -> str:
    """Return the rule that labels [N] of others look like: `balanced` or `random`."""
    seen, counts = np.unique(labels, return_counts=True)  # a class number may be anything
    least = counts.min() if len(seen) == num_classes else 0
    return "balanced" if counts.max() - least <= 1 else "random"

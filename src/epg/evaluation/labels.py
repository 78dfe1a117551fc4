"""Which classes are asked for in an evaluation."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epg.diffusion.seeds import derive_seed
from epg.errors import UserError

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


def rule_of_given(
    said: str, labels: NDArray[np.int64] | None, classes: int | None, images: str
) -> str:
    """Return how the classes of given images were drawn.

    Args:
        said: what their owner says of it; empty: nothing.
        labels: of the images [N]; None: they have none.
        classes: how many there are; None: as many as the labels show.
        images: what they are called.

    Raises:
        UserError: a class that there is not, or they are not as said.
    """
    if labels is None:
        return said or "unknown"
    most = int(labels.max())
    classes = classes or most + 1
    if most >= classes:
        raise UserError(
            f"{images}: it has images of class {most}: the recipe has classes 0 to {classes - 1}"
        )
    looks = labels_rule(labels, classes)
    if said == "balanced" and looks != "balanced":
        raise UserError(
            f"{images}: --labels balanced, but its {classes:,} classes are not in equal number: "
            "say --labels random, or bring as many of each"
        )
    return said or looks

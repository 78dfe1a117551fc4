"""Reproducible orders: the same on every machine and with every version of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """Return a permutation of 0 … count-1 that is a pure function of `count` and `key`.

    numpy promises that the raw numbers of a bit generator never change, but not what
    `Generator.permutation` makes of them; hence the sort of raw numbers. Keys are not negative.
    """
    raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(np.asarray(raw, dtype=np.uint64).reshape(count), kind="stable")

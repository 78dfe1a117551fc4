"""Real images, each of them once, in an order that never changes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from epg.data.reader import ShardReader

_READ_BATCH = 512


def once(
    reader: ShardReader, most: int | None = None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the images of a split once, uint8 [B, H, W, C], with their labels int64 [B].

    Splits that do not fit memory are streamed. `most` stops early, at the same images every time.
    """
    left = reader.num_samples if most is None else min(most, reader.num_samples)
    for batch in reader.batches(min(_READ_BATCH, reader.num_samples), seed=0):
        yield batch.images[:left], batch.labels[:left]
        left -= len(batch.images)
        if left <= 0:
            return

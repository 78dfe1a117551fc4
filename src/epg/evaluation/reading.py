"""Real images, each of them once, in an order that never changes."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.data.reader import ShardReader
from epg.data.windows import Batch

#: Images that are read at a time; a multiple of the group that a network sees at once.
READ_BATCH = 512


def once(
    reader: ShardReader, most: int | None = None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the images of a split once, uint8 [B, H, W, C], with their labels int64 [B].

    Splits that do not fit memory are streamed. `most` stops early, at the same images every time.
    """
    left = reader.num_samples if most is None else min(most, reader.num_samples)
    for batch in reader.batches(min(READ_BATCH, reader.num_samples), seed=0):
        yield batch.images[:left], batch.labels[:left]
        left -= len(batch.images)
        if left <= 0:
            return


class SplitImages:
    """A split in the order of `once`, of which spans of `READ_BATCH` are read; fastest in order.

    Args:
        reader: of the split.
        device: where spans go.
    """

    def __init__(self, reader: ShardReader, device: torch.device) -> None:
        self._reader, self._device = reader, device
        self._size = min(READ_BATCH, reader.num_samples)
        self._batches: Generator[Batch, None, None] | None = None
        self._position = 0
        self._seconds, self._read = 0.0, 0
        self.labels = np.full(reader.num_samples, -1, np.int64)

    @property
    def images_per_second(self) -> float:
        """Throughput of reading so far."""
        return self._read / max(self._seconds, 1e-9)

    def facts(self) -> dict[str, float]:
        """Return the seconds of reading."""
        return {"seconds": self._seconds}

    def read(self, start: int, end: int) -> Tensor:
        """Return the images `start` ... `end` - 1 as uint8 [n, H, W, C] on the device.

        Raises:
            UserError: a shard is missing or damaged.
        """
        assert start % self._size == 0
        assert end - start <= self._size
        begun = time.perf_counter()
        if self._batches is None or start != self._position:
            if self._batches is not None:
                self._batches.close()
            self._batches = self._reader.batches(self._size, 0, start // self._size)
        batch = next(self._batches)
        self._position = start + self._size
        count = end - start
        self.labels[start:end] = batch.labels[:count]
        found = torch.tensor(batch.images[:count], device=self._device)
        self._seconds += time.perf_counter() - begun
        self._read += count
        return found

"""Mean and covariance of features: of a stream, in parts that any number of processes made.

Shapes: `N` feature rows, `D` feature width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Rows that are gathered before one float64 product; 50 rows would take 3.7 times as long.
BUFFER_ROWS = 512

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of one set of features.

    Attributes:
        mean: float64 [D].
        covariance: float64 [D, D], unbiased (divided by `count` - 1).
        count: number of rows they were taken over; 0 where a file does not say.
        features: the rows themselves [N, D] where they were kept; with fewer rows than columns
            the distance is then taken from the N×N Gram matrix, faster and without error.
    """

    mean: Array
    covariance: Array
    count: int
    features: NDArray[Any] | None = None

    @classmethod
    def of(cls, features: NDArray[Any] | Tensor) -> Moments:
        """Take the moments of features [N, D] that lie in memory, and keep the features."""
        rows = torch.as_tensor(features)
        accumulator = MomentAccumulator(rows.shape[1])
        for block in rows.split(BUFFER_ROWS):
            accumulator.add(block)
        return replace(accumulator.moments(), features=rows.cpu().numpy())

    def factor(self) -> Array | None:
        """Return F [N, D] with covariance = Fᵀ·F, when the rows are kept and there are few."""
        if self.features is None or len(self.features) >= len(self.mean):
            return None
        centred = self.features.astype(np.float64) - self.mean
        return centred / np.sqrt(max(self.count - 1, 1))


@dataclass(frozen=True)
class Scatter:
    """What a part of a set adds to its moments: parts of any size and order can be joined.

    Attributes:
        count: rows.
        mean: float64 [D], of these rows.
        products: float64 [D, D], sum of (x - mean)(x - mean)ᵀ over these rows.
    """

    count: int
    mean: Array
    products: Array

    @classmethod
    def joined(cls, parts: Iterable[Scatter]) -> Scatter:
        """Return that of all parts together. Raises `ValueError` where there is none."""
        found: Scatter | None = None
        for part in parts:
            found = part if found is None else found._with(part)
        if found is None:
            raise ValueError("no features were added")
        return found

    def _with(self, other: Scatter) -> Scatter:
        """Join two parts (the pairwise update of sums of squares)."""
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.outer(difference, difference) * (self.count * other.count / count)
        return Scatter(count, mean, self.products + other.products + between)

    def moments(self) -> Moments:
        """Return mean and unbiased covariance."""
        covariance = (self.products + self.products.T) / (2 * max(self.count - 1, 1))
        return Moments(self.mean, covariance, self.count)


class MomentAccumulator:
    """Mean and covariance of a stream of features, in memory that does not grow.

    Sums are float64 on the device where the first features lie; rows are shifted by the mean of
    the first buffer, which keeps the subtraction of squares harmless.
    """

    def __init__(self, width: int) -> None:
        """Start with no rows of `width` columns."""
        self.width = width
        self.count = 0
        self._waiting: list[Tensor] = []
        self._shift: Tensor | None = None
        self._sum: Tensor = torch.zeros(0)
        self._outer: Tensor = torch.zeros(0)

    def add(self, features: Tensor) -> None:
        """Take in features [N, D], of any floating-point type."""
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ValueError(f"features are {tuple(features.shape)}, expected (N, {self.width})")
        self._waiting.append(features.detach())
        if sum(len(block) for block in self._waiting) >= BUFFER_ROWS:
            self._flush()

    @torch.inference_mode()  # features come from it: their sums must not be added to outside
    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = torch.cat(self._waiting).double()  # float64: float32 products err by 2e-6
        self._waiting = []
        if self._shift is None:
            self._shift = rows.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._outer = rows.new_zeros(self.width, self.width)
        rows -= self._shift
        self._sum += rows.sum(0)
        self._outer.addmm_(rows.T, rows)
        self.count += len(rows)

    @torch.inference_mode()
    def scatter(self) -> Scatter:
        """Return what all rows so far add. Needs at least one row."""
        self._flush()
        if self._shift is None:
            raise ValueError("no features were added")
        mean = self._sum / self.count
        products = self._outer - self.count * torch.outer(mean, mean)
        return Scatter(self.count, (mean + self._shift).cpu().numpy(), products.cpu().numpy())

    def moments(self) -> Moments:
        """Return mean and unbiased covariance of all rows so far. Needs at least one row."""
        return self.scatter().moments()

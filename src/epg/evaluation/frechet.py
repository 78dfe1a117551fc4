"""Fréchet distance between two sets of features, and the inception score; all in float64.

Shapes: `N` feature rows, `D` feature width, `K` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.linalg import blas
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
        count: number of rows they were taken over.
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
        moments = accumulator.moments()
        kept = rows.cpu().numpy()
        return cls(moments.mean, moments.covariance, moments.count, kept)

    def factor(self) -> Array | None:
        """Return F [N, D] with covariance = Fᵀ·F, when the rows are kept and there are few."""
        if self.features is None or len(self.features) >= len(self.mean):
            return None
        centred = self.features.astype(np.float64) - self.mean
        return centred / np.sqrt(max(self.count - 1, 1))


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

    def moments(self) -> Moments:
        """Return mean and unbiased covariance of all rows so far. Needs at least one row."""
        self._flush()
        if self._shift is None:
            raise ValueError("no features were added")
        mean = self._sum / self.count
        covariance = self._outer - self.count * torch.outer(mean, mean)
        covariance = (covariance + covariance.T) / (2 * max(self.count - 1, 1))
        return Moments((mean + self._shift).cpu().numpy(), covariance.cpu().numpy(), self.count)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Fréchet distance of two Gaussians with the given moments; 0 for equal sets.

    d² = |μ₁ - μ₂|² + tr Σ₁ + tr Σ₂ - 2·tr (Σ₁Σ₂)^½. Not finite when the moments are not.

    Source: docs/method.md, 8.1; Heusel et al. 2017, eq. 6; Dowson and Landau 1982.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {len(first.mean)} and of {len(second.mean)} columns")
    arrays = (first.mean, first.covariance, second.mean, second.covariance)
    if not all(np.isfinite(array).all() for array in arrays):
        return float("nan")
    difference = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    distance = difference @ difference + traces - 2 * trace_of_root(first, second)
    return max(float(distance), 0.0)  # rounding may leave -1e-14 for equal sets


def trace_of_root(first: Moments, second: Moments) -> float:
    """Return tr (Σ₁Σ₂)^½ as the sum of the roots of the eigenvalues of FΣFᵀ, with FᵀF the other.

    F is, in this order: the kept rows where they are fewer than columns; the Cholesky factor;
    the root from an eigendecomposition, for covariances of lower rank.
    """
    for one, other in ((first, second), (second, first)):
        factor = one.factor()
        if factor is not None:
            return _sum_of_roots(factor @ other.covariance @ factor.T)
    for one, other in ((first, second), (second, first)):
        if one.count > len(one.mean):
            try:
                lower = scipy.linalg.cholesky(one.covariance, lower=True, check_finite=False)
            except np.linalg.LinAlgError:
                continue
            product = blas.dtrmm(1.0, lower, other.covariance, lower=1, trans_a=1)
            return _sum_of_roots(blas.dtrmm(1.0, lower, product, lower=1, side=1))
    values, vectors = scipy.linalg.eigh(first.covariance, check_finite=False)
    root = np.sqrt(np.clip(values, 0.0, None))[:, None] * vectors.T
    return _sum_of_roots(root @ second.covariance @ root.T)


def _sum_of_roots(symmetric: Array) -> float:
    values = scipy.linalg.eigvalsh(symmetric, check_finite=False)
    return float(np.sqrt(np.clip(values, 0.0, None)).sum())


def inception_score(logits: NDArray[Any] | Tensor, split_size: int = 5000) -> float:
    """Exponential of the mean KL divergence of p(y|x) from p(y), averaged over splits.

    1 when every image looks the same to the network, K for sharp predictions of K balanced
    classes. Logits are [N, K], without the layer's bias for comparison with published figures.

    Source: docs/method.md, 8.2; Salimans et al. 2016, section 4; Dhariwal and Nichol 2021.
    """
    scores = []
    for part in torch.as_tensor(logits).double().split(split_size):
        log_p = part.log_softmax(1)
        p = log_p.exp()
        log_mean = p.mean(0).log()
        # 0·log 0 = 0: classes that no image has contribute nothing.
        divergence = torch.where(p > 0, p * (log_p - log_mean), 0.0).sum(1)
        scores.append(divergence.mean().exp())
    return float(torch.stack(scores).mean())

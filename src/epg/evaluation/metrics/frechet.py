"""Fréchet distance between two sets of features, in float64.

Shapes: `N` feature rows, `D` feature width.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from epg.evaluation.metrics.moments import Array, Moments


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
            return _sum_of_roots(lapack.dsygst(other.covariance, lower, itype=2, lower=1)[0])
    values, vectors = scipy.linalg.eigh(first.covariance, check_finite=False)
    seen = values > values[-1] * len(values) * np.finfo(np.float64).eps  # the rest is rounding
    root = np.sqrt(values[seen])[:, None] * vectors.T[seen]
    if not len(root):
        return 0.0
    return _sum_of_roots(root @ second.covariance @ root.T)


def _sum_of_roots(symmetric: Array) -> float:
    """Return the sum of the roots of the eigenvalues; the lower triangle is enough."""
    values = scipy.linalg.eigvalsh(symmetric, lower=True, check_finite=False)
    return float(np.sqrt(np.clip(values, 0.0, None)).sum())

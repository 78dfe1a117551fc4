from __future__ import annotations

import numpy as np
import pytest
import torch

from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.kid import kernel_distance, squared_mmd
from epg.evaluation.metrics.moments import Moments
from epg.evaluation.metrics.uncertainty import bootstrap_interval, limit_of_many

REAL = Moments(np.zeros(8), np.eye(8), 10**6)


def drawn(count: int, seed: int, shift: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 8)) + shift).astype(np.float32)


def test_the_interval_is_as_wide_as_distances_of_other_sets_are_spread():
    distances = [frechet_distance(REAL, Moments.of(drawn(300, seed))) for seed in range(60)]
    low, high = bootstrap_interval(REAL, drawn(300, 100), seed=0, resamplings=100)
    wanted = 2 * 1.96 * np.std(distances)
    assert high - low == pytest.approx(wanted, rel=0.4)
    assert low < frechet_distance(REAL, Moments.of(drawn(300, 100))) < high
    assert bootstrap_interval(REAL, drawn(300, 100), seed=0, resamplings=100) == (low, high)


def test_an_interval_of_a_perfect_set_does_not_reach_below_zero():
    low, _ = bootstrap_interval(REAL, drawn(50, 0, shift=0.0), seed=0)
    assert low >= 0


def test_the_limit_is_nearer_to_the_truth_than_the_distance_of_few():
    truth = 8 * 0.5**2  # means are half apart in each of 8 directions
    found, plain = [], []
    for seed in range(8):
        features = drawn(400, seed)
        found.append(limit_of_many(REAL, features, seed))
        plain.append(frechet_distance(REAL, Moments.of(features)))
    assert abs(np.mean(found) - truth) < 0.5 * abs(np.mean(plain) - truth) + 0.03
    assert np.mean(plain) > truth


def test_kernel_distance_of_two_sets_of_one_distribution_is_around_zero():
    found = [kernel_distance(drawn(200, s), drawn(200, s + 50), subsets=1) for s in range(30)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(30)
    assert min(found) < 0 < max(found)  # unbiased: also below zero


def test_kernel_distance_equals_its_definition():
    x, y = (torch.from_numpy(drawn(7, seed)).double() for seed in (1, 2))

    def kernel(a, b):
        return (float(a @ b) / 8 + 1) ** 3

    def within(rows):
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return np.mean(pairs)

    wanted = within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(wanted, rel=1e-10)


def test_kernel_distance_needs_two_rows():
    with pytest.raises(ValueError, match="two are needed"):
        kernel_distance(drawn(1, 0), drawn(5, 0))

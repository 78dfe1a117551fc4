from __future__ import annotations

import numpy as np
import pytest
import torch

from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.inception_score import inception_score, joined, score, score_sums
from epg.evaluation.metrics.moments import BUFFER_ROWS, MomentAccumulator, Moments, Scatter


def gaussian(rows: int, width: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) * scale + seed


@pytest.mark.parametrize("batch", [1, 7, 64, 5000])
def test_accumulator_equals_numpy_for_any_batch_size(batch):
    x = gaussian(3 * BUFFER_ROWS + 5 if batch > 7 else 150, 6) + 1e4
    accumulator = MomentAccumulator(6)
    for part in torch.from_numpy(x).split(batch):
        accumulator.add(part)
    moments = accumulator.moments()
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)
    assert moments.count == len(x)


def test_accumulator_sums_float32_features_in_float64():
    x = gaussian(2000, 4).astype(np.float32)
    moments = Moments.of(x)
    wanted = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(moments.covariance, wanted, rtol=1e-12, atol=1e-12)


def test_accumulator_refuses_another_width_and_no_rows():
    accumulator = MomentAccumulator(4)
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        accumulator.add(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="no features"):
        accumulator.moments()


def test_equal_sets_have_distance_zero():
    moments = Moments.of(gaussian(300, 20))
    scale = np.trace(moments.covariance)
    assert 0 <= frechet_distance(moments, moments) < 1e-10 * scale


def test_closed_form_for_diagonal_gaussians():
    rng = np.random.default_rng(0)
    m1, m2, s1, s2 = rng.uniform(0.1, 3, size=(4, 12))
    first = Moments(m1, np.diag(s1**2), 1000)
    second = Moments(m2, np.diag(s2**2), 1000)
    wanted = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(wanted, rel=1e-12)


def test_rank_deficient_covariances_take_the_eigenvalue_way():
    spread = np.array([4.0, 1.0, 0.0, 0.0])
    other = np.array([1.0, 0.0, 9.0, 0.0])
    first = Moments(np.zeros(4), np.diag(spread), 1000)
    second = Moments(np.zeros(4), np.diag(other), 1000)
    wanted = ((np.sqrt(spread) - np.sqrt(other)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("n1", "n2"), [(20, 500), (500, 20), (20, 30)])
def test_gram_form_of_few_rows_equals_the_covariance_form(n1, n2):
    x, y = gaussian(n1, 40, 1), gaussian(n2, 40, 2)
    first, second = Moments.of(x), Moments.of(y)
    assert first.factor() is not None or second.factor() is not None
    bare = [Moments(m.mean, m.covariance, m.count) for m in (first, second)]
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(*bare), rel=1e-6)


def test_distance_of_infinite_features_is_not_a_number():
    x = gaussian(50, 3)
    x[0, 0] = np.inf
    assert np.isnan(frechet_distance(Moments.of(x), Moments.of(gaussian(50, 3))))


def test_different_widths_are_refused():
    with pytest.raises(ValueError, match="3 and of 4 columns"):
        frechet_distance(Moments.of(gaussian(9, 3)), Moments.of(gaussian(9, 4)))


def test_inception_score_of_closed_forms():
    assert inception_score(np.zeros((50, 10))) == pytest.approx(1.0)
    sharp = np.tile(np.eye(10), (6, 1)) * 1e4
    assert inception_score(sharp) == pytest.approx(10.0)
    assert inception_score(np.full((50, 10), [9.0] + [0.0] * 9)) == pytest.approx(1.0)


def test_inception_score_is_the_mean_over_splits():
    one_class_each = np.repeat(np.eye(2), 5, axis=0) * 1e4  # 5 of class 0, then 5 of class 1
    assert inception_score(one_class_each, split_size=5) == pytest.approx(1.0)
    assert inception_score(one_class_each, split_size=10) == pytest.approx(2.0)


def test_inception_score_of_parts_is_that_of_the_whole():
    logits = torch.randn(23, 6, generator=torch.Generator().manual_seed(0)) * 3
    wanted = inception_score(logits, split_size=10)
    parts = [score_sums(logits[a:b], a, 10) for a, b in ((7, 12), (0, 7), (12, 23))]
    assert score(joined(parts)) == pytest.approx(wanted, rel=1e-12)
    assert {split: sums.count for split, sums in joined(parts).items()} == {0: 10, 1: 10, 2: 3}


@pytest.mark.parametrize("cuts", [[], [1], [600, 601, 1400]])
def test_moments_of_parts_are_those_of_the_whole(cuts):
    x = torch.from_numpy(gaussian(1500, 8, 3)) + 1e4
    parts = []
    for part in torch.tensor_split(x, cuts):
        accumulator = MomentAccumulator(8)
        accumulator.add(part)
        parts.append(accumulator.scatter())
    found, wanted = Scatter.joined(reversed(parts)).moments(), Moments.of(x)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, wanted.covariance, rtol=1e-9, atol=1e-9)
    assert found.count == 1500


def test_near_singular_covariances_equal_their_closed_form():
    spread = np.array([1.0, 1e-9, 1e-14, 0.0])
    other = np.array([4.0, 1e-9, 1e-12, 1e-14])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    turned = [turn @ np.diag(s) @ turn.T for s in (spread, other)]
    first, second = (Moments(np.zeros(4), covariance, 1000) for covariance in turned)
    wanted = ((np.sqrt(spread) - np.sqrt(other)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(second, first) == pytest.approx(wanted, rel=1e-6)

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from epg.data.reader import Batch, ShardReader
from epg.evaluation.metrics import copies
from epg.evaluation.metrics.copies import nearest_in_training, nearest_neighbour_ratio, pixels
from epg.evaluation.metrics.manifold import compare_manifolds, neighbour_radii
from epg.evaluation.metrics.neighbours import nearest


def brute_force(reference: np.ndarray, samples: np.ndarray, k: int) -> tuple[float, ...]:
    def distance(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def within(points, manifold, k):
        radii = np.sort(distance(manifold, manifold), axis=1)[:, k]
        return distance(points, manifold) <= radii

    near = within(samples, reference, 5)
    return (
        within(samples, reference, k).any(1).mean(),
        within(reference, samples, k).any(1).mean(),
        near.sum() / (5 * len(samples)),
        near.any(0).mean(),
    )


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("k", [1, 3])
def test_all_four_equal_brute_force(block, k):
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(60, 5)), rng.normal(size=(45, 5)) * 0.6 + 0.5
    found = compare_manifolds(torch.from_numpy(reference), torch.from_numpy(samples), k, block)
    wanted = brute_force(reference, samples, k)
    assert found == pytest.approx(wanted)
    assert found.precision > found.recall  # narrower: precise, but it does not cover


def test_far_away_features_are_still_told_apart_in_float32():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(80, 16))
    samples = rng.normal(size=(80, 16)) * 0.8
    found = compare_manifolds(
        torch.from_numpy(reference + 1000).float(), torch.from_numpy(samples + 1000).float()
    )
    assert found == pytest.approx(brute_force(reference, samples, 3), abs=0.05)


def test_disjoint_sets_have_neither_precision_nor_recall():
    reference = torch.randn(20, 4)
    assert compare_manifolds(reference, reference + 100) == (0.0, 0.0, 0.0, 0.0)
    same = compare_manifolds(reference, reference.clone())
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)


def test_density_and_coverage_equal_their_authors_counts():
    """Four real images on a line, one sample: in two of four neighbourhoods of one neighbour."""
    reference = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    found = compare_manifolds(reference, torch.tensor([[0.5], [0.6]]), 1)
    # With 3 neighbours (as many as there are) radii are 7, 6, 4 and 7, and hold both samples.
    assert (found.density, found.coverage) == (8 / (3 * 2), 1.0)


def test_memory_does_not_grow_with_the_square_of_the_rows():
    """No tensor that is made on the way has more numbers than a block's square."""
    made: list[int] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made.extend(
                t.numel()
                for t in (result if isinstance(result, tuple) else [result])
                if isinstance(t, torch.Tensor)
            )
            return result

    with Watching():
        compare_manifolds(torch.randn(400, 3), torch.randn(500, 3), 3, block=32)
    assert max(made) <= 32 * (32 + 6) + 500 * 6


def test_radii_need_enough_rows():
    with pytest.raises(ValueError, match="k is 3"):
        neighbour_radii(torch.zeros(3, 2), (1, 3))


@pytest.mark.parametrize("block", [3, 4096])
def test_the_nearest_equal_brute_force(block):
    rng = np.random.default_rng(0)
    rows, others = rng.normal(size=(10, 5)), rng.normal(size=(40, 5))
    parts = [torch.from_numpy(part) for part in (others[:25], others[25:])]
    found = nearest(torch.from_numpy(rows), parts, 4, block)
    wanted = np.sort(((rows[:, None] - others[None]) ** 2).sum(-1), axis=1)[:, :4]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_fewer_than_the_nearest_asked_for_leave_infinity():
    found = nearest(torch.zeros(2, 3), [torch.ones(1, 3)], 2)
    assert found.tolist() == [[3.0, float("inf")]] * 2


class Training:
    """A split that is read in one batch, over and over."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.num_samples = len(images)

    def batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        assert batch_size == self.num_samples
        while True:
            yield Batch(self.images, np.zeros(len(self.images), np.int64), np.arange(batch_size))


def test_the_nearest_in_training_equal_brute_force(monkeypatch):
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images[17] = queries[4]
    difference = queries[:, None].astype(float) - images[None].astype(float)
    wanted = np.sqrt((difference**2).sum((2, 3, 4)))
    train = cast(ShardReader, Training(images))
    found = nearest_in_training(queries, train, shown=6)
    np.testing.assert_allclose(found.distances, wanted.min(1), rtol=1e-6)
    assert found.distances[4] == 0.0  # a copy is found as one
    assert np.array_equal(found.images, images[wanted[:6].argmin(1)])
    monkeypatch.setattr(copies, "MAX_TRAINING_IMAGES", 15)
    found = nearest_in_training(queries, train)
    np.testing.assert_allclose(found.distances, wanted[:, :15].min(1), rtol=1e-6)
    assert len(found.images) == 0


def test_large_images_are_averaged_before_they_are_compared():
    images = np.zeros((1, 128, 128, 1), np.uint8)
    images[:, ::2] = 100
    rows = pixels(images)
    assert rows.shape == (1, 64 * 64)
    assert torch.allclose(rows, torch.tensor(50.0 - 128.0))


def test_ratio_compares_medians():
    assert nearest_neighbour_ratio(np.array([1.0, 2.0, 90.0]), np.array([4.0, 4.0])) == 0.5
    assert np.isnan(nearest_neighbour_ratio(np.array([1.0]), np.array([0.0, 0.0])))
    assert np.isnan(nearest_neighbour_ratio(np.array([1.0]), np.array([])))

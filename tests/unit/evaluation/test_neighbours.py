from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch

from epg.data.reader import Batch, ShardReader
from epg.evaluation import neighbours
from epg.evaluation.neighbours import (
    distances_to_training,
    nearest,
    nearest_neighbour_ratio,
    neighbour_radii,
    pixels,
    precision_recall,
)


def brute_force(reference: np.ndarray, samples: np.ndarray, k: int) -> tuple[float, float]:
    def distance(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def covered(points, manifold):
        radii = np.sort(distance(manifold, manifold), axis=1)[:, k]
        return (distance(points, manifold) <= radii).any(1).mean()

    return covered(samples, reference), covered(reference, samples)


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_brute_force(block, k):
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(60, 5)), rng.normal(size=(45, 5)) * 0.6 + 0.5
    found = precision_recall(torch.from_numpy(reference), torch.from_numpy(samples), k, block)
    wanted = brute_force(reference, samples, k)
    assert found == pytest.approx(wanted)
    assert found[0] > found[1]  # narrower than the reference: precise, but it does not cover


def test_far_away_features_are_still_told_apart_in_float32():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(80, 16))
    samples = rng.normal(size=(80, 16)) * 0.8
    found = precision_recall(
        torch.from_numpy(reference + 1000).float(), torch.from_numpy(samples + 1000).float()
    )
    assert found == pytest.approx(brute_force(reference, samples, 3), abs=0.03)


def test_disjoint_sets_have_neither_precision_nor_recall():
    reference = torch.randn(20, 4)
    assert precision_recall(reference, reference + 100) == (0.0, 0.0)
    assert precision_recall(reference, reference.clone()) == (1.0, 1.0)


def test_radii_need_enough_rows():
    with pytest.raises(ValueError, match="k is 3"):
        neighbour_radii(torch.zeros(3, 2), 3)


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


def test_distances_to_training_equal_brute_force(monkeypatch):
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images[17] = queries[4]
    difference = queries[:, None].astype(float) - images[None].astype(float)
    wanted = np.sqrt((difference**2).sum((2, 3, 4)))
    train = cast(ShardReader, Training(images))
    found = distances_to_training(queries, train)
    np.testing.assert_allclose(found, wanted.min(1), rtol=1e-6)
    assert found[4] == 0.0  # a copy is found as one
    monkeypatch.setattr(neighbours, "MAX_TRAINING_IMAGES", 15)
    found = distances_to_training(queries, train)
    np.testing.assert_allclose(found, wanted[:, :15].min(1), rtol=1e-6)


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

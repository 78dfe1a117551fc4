from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from epg.evaluation.features.base import Features, Figures
from epg.evaluation.features.describing import describe
from epg.evaluation.frechet import Moments

CONV: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # unknown to torch's types
MATMUL = torch.backends.cuda.matmul


class Looking:
    """A network whose features are the pixels; it notes how float32 is computed meanwhile."""

    figures: tuple[str, ...] = ()
    name = "pixels"

    def __init__(self, *, spatial: bool = False, fails: bool = False) -> None:
        self.spatial = spatial
        self.fails = fails
        self.settings: list[tuple[str, str]] = []

    def describe(self, images: torch.Tensor) -> Features:
        self.settings.append((CONV.fp32_precision, MATMUL.fp32_precision))
        if self.fails:
            raise RuntimeError("out of memory")
        x = images.flatten(1).float()
        return Features(x, -x[:, :2], x[:, :3] if self.spatial else None)

    def quality(self, real, labels) -> dict[str, float]:
        raise NotImplementedError

    def compare(self, real, found, labels) -> Figures:
        raise NotImplementedError


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 2, 2, 1), dtype=np.uint8)


def test_every_network_sees_every_batch_of_one_pass(images):
    batches = iter([images[:4], images[4:9], images[9:]])  # there is no second pass
    seen: list[int] = []
    first, second = describe([Looking(), Looking(spatial=True)], batches, on_batch=seen.append)
    assert seen == [4, 9, 10]
    rows = images.reshape(10, 4).astype(np.float32)
    for found in (first, second):
        assert np.array_equal(found.features, rows)
        assert np.array_equal(found.logits, -rows[:, :2])
        np.testing.assert_allclose(found.moments.covariance, Moments.of(rows).covariance)
        assert found.moments.features is not None
    assert first.spatial is None
    assert second.spatial is not None
    np.testing.assert_allclose(second.spatial.mean, rows[:, :3].mean(0))


def test_features_beyond_those_to_keep_count_in_the_moments_alone(images):
    (found,) = describe([Looking()], [images[:4], images[4:]], keep=6)
    assert len(found.features) == 6
    assert found.moments.count == len(found.logits) == 10
    assert found.moments.features is None


def test_no_images_are_an_error():
    with pytest.raises(ValueError, match="no images"):
        describe([Looking()], [])


@pytest.mark.parametrize("fails", [False, True])
def test_features_are_taken_in_full_float32(images, fails):
    before = MATMUL.fp32_precision, CONV.fp32_precision
    assert before[1] == "tf32"  # torch's default, against which this guards
    MATMUL.fp32_precision = "tf32"
    network = Looking(fails=fails)
    try:
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                describe([network], [images])
        else:
            describe([network], [images])
        assert network.settings == [("ieee", "ieee")]
        assert MATMUL.fp32_precision == CONV.fp32_precision == "tf32"
    finally:
        MATMUL.fp32_precision = before[0]

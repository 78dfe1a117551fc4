from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from epg.evaluation.features.base import Features, Figures
from epg.evaluation.features.describing import GROUP
from epg.evaluation.metrics.inception_score import inception_score, score
from epg.evaluation.metrics.moments import Moments
from tests.toys.described import describe

CONV: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # unknown to torch's types
MATMUL = torch.backends.cuda.matmul


class Looking:
    """A network whose features are the pixels; it notes how float32 is computed meanwhile."""

    figures: tuple[str, ...] = ()
    name = "pixels"
    width = 4
    weights_digest = ""
    preprocessing = ""

    def __init__(self, *, spatial: bool = False, fails: bool = False) -> None:
        self.spatial = spatial
        self.fails = fails
        self.settings: list[tuple[str, str]] = []
        self.on_group: Callable[[int], None] = lambda count: None

    def describe(self, images: torch.Tensor) -> Features:
        self.settings.append((CONV.fp32_precision, MATMUL.fp32_precision))
        if self.fails:
            raise RuntimeError("out of memory")
        self.on_group(len(images))
        x = images.flatten(1).float()
        return Features(x, -x[:, :2], x[:, :3] if self.spatial else None)

    def quality(self, real, labels) -> dict[str, float]:
        raise NotImplementedError

    def compare(self, real, found, labels) -> Figures:
        raise NotImplementedError


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 2, 2, 1), dtype=np.uint8)


def ones(images: np.ndarray) -> np.ndarray:
    return np.ones(len(images), np.int64)


@pytest.mark.parametrize("span", [3 * GROUP, 11 * GROUP])
def test_nothing_depends_on_the_size_of_the_spans(span):
    """Not even a bit: the network sees the same groups, however the images arrive."""
    pixels = np.random.default_rng(1).integers(0, 256, (700, 2, 2, 1), dtype=np.uint8)
    network = Looking(spatial=True)
    groups: list[int] = []
    network.on_group = groups.append
    (found,) = describe([network], pixels, ones(pixels), span=span)
    (wanted,) = describe([Looking(spatial=True)], pixels, ones(pixels))
    assert groups == [GROUP] * (700 // GROUP) + [700 % GROUP]
    assert np.array_equal(found.moments.covariance, wanted.moments.covariance)
    assert np.array_equal(found.features, wanted.features)
    assert np.array_equal(found.confidence, wanted.confidence)
    assert score(found.splits) == score(wanted.splits)


def test_every_network_sees_every_image(images):
    first, second = describe([Looking(), Looking(spatial=True)], images, ones(images))
    rows = images.reshape(10, 4).astype(np.float32)
    for found in (first, second):
        assert np.array_equal(found.features, rows)
        assert np.array_equal(found.predicted, (-rows[:, :2]).argmax(1))
        logits = torch.from_numpy(-rows[:, :2])
        np.testing.assert_allclose(found.confidence, logits.log_softmax(1)[:, 1], rtol=1e-5)
        assert score(found.splits) == pytest.approx(inception_score(logits))
        np.testing.assert_allclose(found.moments.covariance, Moments.of(rows).covariance)
        assert found.moments.features is not None
    assert first.spatial is None
    assert second.spatial is not None
    np.testing.assert_allclose(second.spatial.mean, rows[:, :3].mean(0))


def test_features_beyond_those_to_keep_count_in_the_moments_alone(images):
    (found,) = describe([Looking()], images, ones(images), keep=6)
    assert len(found.features) == 6
    assert found.moments.count == len(found.predicted) == 10
    assert found.moments.features is None


@pytest.mark.parametrize("fails", [False, True])
def test_features_are_taken_in_full_float32(images, fails):
    before = MATMUL.fp32_precision, CONV.fp32_precision
    assert before[1] == "tf32"  # torch's default, against which this guards
    MATMUL.fp32_precision = "tf32"
    network = Looking(fails=fails)
    try:
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                describe([network], images, ones(images))
        else:
            describe([network], images, ones(images))
        assert network.settings == [("ieee", "ieee")]
        assert MATMUL.fp32_precision == CONV.fp32_precision == "tf32"
    finally:
        MATMUL.fp32_precision = before[0]

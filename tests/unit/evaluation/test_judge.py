from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from epg.evaluation.judge import agreement, svc_predictions


def test_agreement_overall_and_by_class():
    found = agreement(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]), 4)
    assert found.overall == 0.75
    assert found.by_class == [0.5, 1.0, 1.0, None]


def test_svc_on_stored_pixels_equals_svc_on_scikit_learns_own():
    digits = load_digits()
    stored = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
    found = svc_predictions(
        stored[:600], digits.target[:600], stored[600:900], gamma=0.001, penalty=10, pixel_max=16
    )
    wanted = SVC(gamma=0.001, C=10).fit(digits.data[:600], digits.target[:600])
    assert found.dtype == np.int64
    assert (found == wanted.predict(digits.data[600:900])).mean() >= 0.99
    assert (found == digits.target[600:900]).mean() >= 0.95


def test_svc_sees_no_digits_in_noise():
    digits = load_digits()
    stored = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(200) % 10
    found = svc_predictions(
        stored[:600], digits.target[:600], noise, gamma=0.001, penalty=10, pixel_max=16
    )
    assert (found == labels).mean() == pytest.approx(0.1, abs=0.1)

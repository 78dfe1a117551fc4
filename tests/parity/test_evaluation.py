"""Our distances and networks against those of other people."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from epg.evaluation.features.inception import FidInception, resize_like_tensorflow
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.inception_score import inception_score
from epg.evaluation.metrics.kid import kernel_distance
from epg.evaluation.metrics.manifold import compare_manifolds
from epg.evaluation.metrics.moments import Moments


def features(rows: int, seed: int, width: int = 96) -> np.ndarray:
    """Non-negative, correlated, exponentially decaying: like those of a network."""
    mixing = np.random.default_rng(0).normal(size=(24, width))
    mixing *= np.exp(-np.arange(24) / 6)[:, None]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 24)) @ mixing + 0.05 * rng.normal(size=(rows, width)) + 0.1 * seed
    return np.maximum(x, 0).astype(np.float32)


def by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    difference = x.mean(0) - y.mean(0)
    return float(difference @ difference + np.trace(c1 + c2 - 2 * np.real(root)))


def test_distance_equals_scipys_matrix_root():
    x, y = features(2000, 1), features(1500, 2)
    found = frechet_distance(Moments.of(x), Moments.of(y))
    assert found == pytest.approx(by_sqrtm(x, y), rel=1e-8)


def test_distance_of_few_rows_equals_eigenvalues_of_the_product():
    x, y = features(40, 1).astype(np.float64), features(60, 2).astype(np.float64)
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.clip(np.real(np.linalg.eigvals(c1 @ c2)), 0, None)).sum()
    difference = x.mean(0) - y.mean(0)
    wanted = difference @ difference + np.trace(c1) + np.trace(c2) - 2 * roots
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(wanted, rel=1e-6)


def test_distance_and_scores_equal_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric

    x, y = features(1000, 1), features(1000, 2)
    statistics = [fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    wanted = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    found = frechet_distance(Moments.of(x), Moments.of(y))
    assert found == pytest.approx(wanted, rel=1e-6)
    wanted = isc_features_to_metric(torch.from_numpy(x).double(), splits=4, shuffle=False)
    assert inception_score(x, split_size=250) == pytest.approx(
        wanted["inception_score_mean"], rel=1e-9
    )


def test_precision_and_recall_equal_torch_fidelitys():
    from torch_fidelity.metric_prc import prc_features_to_metric

    # Its first set is the generated one (since 0.4).
    samples, reference = torch.from_numpy(features(150, 1)), torch.from_numpy(features(200, 2))
    wanted = prc_features_to_metric(samples, reference, prc_neighborhood=3, verbose=False)
    found = compare_manifolds(reference, samples, 3)
    assert (found.precision, found.recall) == pytest.approx((wanted["precision"], wanted["recall"]))


def test_kid_equals_torch_fidelitys():
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = features(400, 1), features(300, 2)
    wanted = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=20, kid_subset_size=100, verbose=False
    )
    found = kernel_distance(x, y, subsets=20, subset_size=100)
    assert found == pytest.approx(wanted["kernel_inception_distance_mean"], rel=1e-3)


def published_network(tmp_path, ours: FidInception):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "weights.pth"
    torch.save(ours.state_dict(), path)
    names = ["2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", names, feature_extractor_weights_path=str(path)
    )


def test_inception_features_equal_torch_fidelitys(tmp_path):
    torch.manual_seed(0)
    ours = FidInception()
    for module in ours.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    theirs = published_network(tmp_path, ours).eval()  # loads our names strictly
    seen = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *a: seen.append(a[-1]))
    images = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    with torch.inference_mode():
        pool, logits = theirs(images.permute(0, 3, 1, 2))
    found = ours.fold().describe(images)
    assert found.logits is not None
    scale = float(pool.abs().max())
    torch.testing.assert_close(found.pool / scale, pool / scale, rtol=1e-4, atol=1e-5)
    scale = float(logits.abs().max())
    torch.testing.assert_close(found.logits / scale, logits / scale, rtol=1e-4, atol=1e-5)
    spatial = seen[0][:, :7].permute(0, 2, 3, 1).flatten(1)
    scale = float(spatial.abs().max())
    assert found.spatial is not None
    torch.testing.assert_close(found.spatial / scale, spatial / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 32, 256, 299, 512])
def test_resize_equals_torch_fidelitys(size):
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    x = torch.randint(0, 256, (1, 3, size, size + 5)).float()
    wanted = interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
    torch.testing.assert_close(resize_like_tensorflow(x, 299), wanted, rtol=0, atol=1e-3)

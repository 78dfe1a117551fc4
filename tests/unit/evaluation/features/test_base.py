from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from epg.errors import UserError
from epg.evaluation.features.base import Statistics
from epg.evaluation.features.classifier import Classifier, ClassifierShape
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.moments import Moments

SHAPE = ClassifierShape("digits-cnn", 8, 1, 10, [0.3], [0.4], feature_dim=20)


def network(shape: ClassifierShape = SHAPE, digest: str = "a" * 64) -> Classifier:
    found = Classifier(shape)
    found.weights_digest = digest
    return found


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("keep", [5, 12])
def test_statistics_come_back_from_their_file(tmp_path, keep, spatial):
    rng = np.random.default_rng(0)
    rows, other = rng.normal(size=(12, 20)).astype(np.float32), rng.normal(size=(9, 20))
    whole = Moments.of(rows)
    moments = Moments(whole.mean, whole.covariance, 12, rows if keep == 12 else None)
    places = Moments.of(rows[:, :3]) if spatial else None
    statistics = Statistics(moments, places, rows[:keep])
    path = tmp_path / "statistics.npz"
    path.write_bytes(statistics.to_npz(network()))
    found = Statistics.from_npz(path, network())
    assert np.array_equal(found.features, rows[:keep])
    # The same bits, also where the rows themselves give the shorter way to the distance.
    wanted = frechet_distance(moments, Moments.of(other))
    assert frechet_distance(found.moments, Moments.of(other)) == wanted
    if places is None:
        assert found.spatial is None
    else:
        assert found.spatial is not None
        assert np.array_equal(found.spatial.covariance, places.covariance)
        assert found.spatial.count == 12


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (network(digest="b" * 64), "of another network: weights aaaaaaaaaaaa..., not bbbbbbbbbbbb"),
        (network(replace(SHAPE, name="x-cnn")), "of another network: name digits-cnn, not x-cnn"),
        (
            network(replace(SHAPE, mean=[0.5])),
            r"preprocessing 8 pixels, minus \[0.3\], divided by \[0.4\], not 8 pixels, minus \[0.5",
        ),
        (network(replace(SHAPE, feature_dim=64)), "of 20 features, where it has 64"),
    ],
)
def test_statistics_of_another_network_are_refused(tmp_path, other, reason):
    path = tmp_path / "statistics.npz"
    rows = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
    content = Statistics(Moments.of(rows), None, rows).to_npz(network())
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        Statistics.from_npz(path, other, "s3://a/statistics.npz")
    assert str(caught.value).startswith("s3://a/statistics.npz: no reference statistics for ")
    assert "\n" not in str(caught.value)


def test_of_files_that_name_no_network_only_the_width_is_known(tmp_path):
    path = tmp_path / "statistics.npz"
    rows = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
    np.savez(path, mu=rows.mean(0), sigma=np.cov(rows.T), count=12, features=rows)
    assert Statistics.from_npz(path, network(digest="b" * 64)).moments.count == 12
    with pytest.raises(UserError, match="of 20 features, where it has 64"):
        Statistics.from_npz(path, network(replace(SHAPE, feature_dim=64)))
    np.savez(path, mu=rows.mean(0), sigma=np.cov(rows.T), count=12, features=rows, network=[1, 2])
    with pytest.raises(UserError, match="what it says of its network cannot be read"):
        Statistics.from_npz(path, network())

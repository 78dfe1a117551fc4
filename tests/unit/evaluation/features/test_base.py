from __future__ import annotations

import numpy as np
import pytest

from epg.evaluation.features.base import Statistics
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.moments import Moments


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
    path.write_bytes(statistics.to_npz())
    found = Statistics.from_npz(path)
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

"""What a user reads, and what must never be taken for something else."""

from __future__ import annotations

import pytest

from epg.cluster.runs.kfp_api import Unreachable
from epg.cluster.runs.pods import Unseen
from epg.data.sources import SourceNotFound
from epg.errors import UserError, did_you_mean
from epg.store import ObjectExists, ObjectNotFound


@pytest.mark.parametrize(
    "kind", [UserError, ObjectExists, ObjectNotFound, SourceNotFound, Unreachable, Unseen]
)
def test_forgiving_unreadable_data_forgives_no_user_error(kind):
    """`except ValueError` around a parser must let a store that is away through."""
    assert issubclass(kind, UserError)
    assert not issubclass(kind, ValueError | TypeError | KeyError | OSError)


def test_the_nearest_name_is_offered_or_nothing():
    names = ["digits", "smoke"]
    assert did_you_mean("digit", names) == " (did you mean 'digits'?)"
    assert did_you_mean("imagenet", iter(names)) == ""
    assert did_you_mean("v3", ["v1"]) == ""
    assert did_you_mean("v3", ["v1"], cutoff=0.5) == " (did you mean 'v1'?)"

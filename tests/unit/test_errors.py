"""What a user reads, and what must never be taken for something else."""

from __future__ import annotations

import pytest

from epg.cluster.runs.pods import Unseen
from epg.cluster.runs.refusals import Unreachable
from epg.data.sources import SourceNotFound
from epg.errors import UserError, did_you_mean, printable, shown_names
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


@pytest.mark.parametrize(
    ("name", "shown"),
    [("caf\u00e9", "caf\u00e9"), ("c\udce9t", "c\\xe9t"), ("\ud800", "\\ud800"), ("a\nb", "a\nb")],
)
def test_every_name_can_be_written_into_a_utf8_file(name, shown):
    assert printable(name) == shown
    shown.encode()


def test_of_many_names_the_first_are_shown():
    assert shown_names(["a", "b"]) == "'a', 'b'"
    assert shown_names("abcde") == "'a', 'b', 'c' and 2 more"

"""Weights and statistics stay in the store; what travels says where, and is checked."""

from __future__ import annotations

import json

import pytest

from epg.errors import UserError
from epg.runs.handover import HandOver, fetch_output
from epg.runs.perform import perform
from epg.runs.run import Run
from epg.stages.catalog import STAGES

WEIGHTS = b"weights" * 1000


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.open("smoke", {}, str(tmp_path / "store"), "mine")


@pytest.fixture
def record(run):
    def work(reporter, outputs):
        outputs.put_bytes("encoder", "encoder.safetensors", WEIGHTS)
        outputs.put_bytes("projector", "projector.safetensors", b"other")

    return perform(run, STAGES["pretrain"], config={}, inputs={}, work=work)


def test_what_is_handed_over_is_small_and_comes_back(run, record):
    handed = HandOver.of(run, record, "encoder")
    text = handed.to_json()
    assert len(text) < 1000 < len(WEIGHTS)
    assert HandOver.from_json(text) == handed
    (found,) = handed.objects.values()
    assert found.uri == f"{run.store.uri}/pretrain/encoder.safetensors"
    assert found.size == len(WEIGHTS)
    assert (handed.stage, handed.recipe) == ("pretrain", "smoke")


def test_all_outputs_unless_some_are_named(run, record):
    assert set(HandOver.of(run, record).objects) == {"encoder", "projector"}
    with pytest.raises(UserError, match="has no output 'generator': it has encoder, projector"):
        HandOver.of(run, record, "generator")


def test_it_is_copied_when_it_is_wanted_and_checked(run, record, tmp_path):
    path = HandOver.of(run, record).fetch(run.store, "encoder", tmp_path / "new" / "encoder")
    assert path.read_bytes() == WEIGHTS
    run.store.put_bytes("pretrain/encoder.safetensors", WEIGHTS[:-1] + b"x")
    with pytest.raises(UserError, match="the object was altered; .*`--from pretrain`"):
        fetch_output(run, record, "encoder", tmp_path / "again")


def changed(**fields) -> bytes:
    entry = {"key": "a/b", "uri": "s3://x/a/b", "sha256": "0" * 64, "size": 3}
    content = {
        "epg_kind": "hand-over",
        "format_version": 1,
        "stage": "pretrain",
        "recipe": "smoke",
        "objects": {"encoder": entry},
    }
    return json.dumps({**content, **fields}).encode()


def test_a_whole_one_is_read():
    assert HandOver.from_json(changed()).sha256("encoder") == "0" * 64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * 2_000_000,
        changed(epg_kind="shards"),
        changed(format_version=2),  # without a seal
        changed(format_version=3),
        changed(seal="0" * 64),
        changed(objects=[]),
        changed(objects={"encoder": {"key": "a"}}),
        changed(objects={"encoder": {"key": 1, "uri": "u", "sha256": "s", "size": 3}}),
        changed(objects={"encoder": {"key": "k", "uri": "u", "sha256": "s", "size": True}}),
    ],
)
def test_anything_else_is_refused_in_one_line(data):
    with pytest.raises(UserError, match="no hand-over of version 2") as caught:
        HandOver.from_json(data)
    assert "\n" not in str(caught.value)

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epg.data.manifest import Manifest, ShardInfo
from epg.documents import sealed
from epg.errors import UserError


def example(version: int = 2) -> Manifest:
    shard = ShardInfo("shards/x/train-000000.tar", 4096, "ab" * 32, 3)
    held_out = ShardInfo("shards/x/held-out-000000.tar", 2048, "cd" * 32, 1)
    return Manifest(
        source="folder:/data/\u00e9",
        image_size=8,
        channels=1,
        classes=["a", "<script>"],
        splits={"train": [shard], "held-out": [held_out]},
        class_counts={"train": [1, 2], "held-out": [1, 0]},
        report={"skipped": {}},
        format_version=version,
    )


def altered(**changes) -> bytes:
    return json.dumps({**unsealed(), **changes}).encode()


def unsealed() -> dict[str, Any]:
    """What version 0.1 wrote."""
    content = json.loads(example(1).to_json())
    del content["seal"]
    return content


def resealed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A manifest of format 2 that somebody has changed, with a seal that fits."""
    content = json.loads(example().to_json())
    del content["seal"]
    change(content)
    return json.dumps(sealed(content)).encode()


def test_format_1_is_read_and_keeps_its_identity():
    old = Manifest.from_json(json.dumps(unsealed()).encode())
    assert old == example(1)
    # As version 0.2 has computed it: trainings of that version are resumed by it.
    assert old.sha256 == ("48f50734b205d5f3b4ca931d658002a3d582e85dd76b316258b43a9e124acbef")
    assert old.sha256 != example().sha256
    assert set(json.loads(old.to_json())) == {*unsealed(), "seal"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(crop="round"), "wrong field: crop"),
        (lambda raw: raw.update(encoding="bmp"), "wrong field: encoding"),
        (lambda raw: raw.pop("source_digest"), "'source_digest' is missing"),
        (lambda raw: raw["splits"]["train"][0].update(index_size=-1), "index of 'shards/x"),
        (lambda raw: raw["splits"]["train"][0].update(index_sha256="ab"), "index of 'shards/x"),
        (lambda raw: raw["splits"]["train"][0].update(index_size=5), "index of 'shards/x"),
    ],
)
def test_odd_fields_of_format_2_are_refused(change, message):
    with pytest.raises(UserError, match=f"this is not a shard manifest: .*{message}"):
        Manifest.from_json(resealed(change))


def test_format_2_has_a_seal():
    content = json.loads(example().to_json())
    del content["seal"]
    with pytest.raises(UserError, match="the digest over itself, is missing"):
        Manifest.from_json(json.dumps(content).encode())


def test_round_trip():
    manifest = example()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json()).sha256 == manifest.sha256
    assert manifest.num_samples("train") == 3


def test_digest_covers_every_field():
    manifest = example(1)
    raw = unsealed()
    assert Manifest.from_json(json.dumps(raw).encode()) == manifest
    raw["splits"]["train"][0]["sha256"] = "ef" * 32
    assert Manifest.from_json(json.dumps(raw).encode()).sha256 != manifest.sha256


def test_unknown_split_is_named():
    with pytest.raises(UserError, match="has no split 'test'; it has: held-out, train"):
        example().num_samples("test")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>503</html>", "it is not JSON"),
        (altered(report=float("nan")), "NaN is not a number of JSON"),
        (b"[1]", "it is a list, expected an object"),
        (b"[" * 100_000, "levels deep"),
        (altered(epg_kind="model"), '"epg_kind": "shards" is missing'),
        (altered(format_version=99), "format_version is 99"),
        (altered(extra=1), "wrong field: .*'extra'"),
        (altered(channels=2), "wrong field: channels"),
        (altered(seal="0" * 64), "it was altered"),
        (altered(image_size=True), "wrong field: .image_size."),
        (altered(classes="ab"), "wrong field: .classes."),
        (altered(classes=[]), "wrong field: classes"),
        (altered(source=None), "wrong field: .source."),
        (altered(report=[]), "wrong field: .report."),
        (altered(splits={}), "wrong field: splits"),
        (altered(splits=None), "wrong field"),
        (altered(class_counts={"train": [1, 2], "held-out": [2, 0]}), "class_counts.held-out"),
        (altered(class_counts={"train": [3], "held-out": [1, 0]}), "class_counts.train"),
    ],
)
def test_anything_else_is_refused(data, message):
    with pytest.raises(UserError, match=f"this is not a shard manifest: .*{message}"):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "../other-run/a.tar"},
        {"key": "/etc/passwd"},
        {"key": "a//b.tar"},
        {"key": "a\0b"},
        {"key": 3},
        {"sha256": "AB" * 32},
        {"sha256": None},
        {"size": -1},
        {"num_samples": 0},
        {"num_samples": 3.0},
    ],
)
def test_hostile_shards_are_refused(change):
    raw = unsealed()
    raw["splits"]["train"][0].update(change)
    with pytest.raises(UserError, match=r"wrong field: splits\.train"):
        Manifest.from_json(json.dumps(raw).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(unsealed())), json_values)
def test_no_value_of_any_field_crashes(name, value):
    data = altered(**{name: value})
    with contextlib.suppress(UserError):
        manifest = Manifest.from_json(data)
        assert Manifest.from_json(manifest.to_json()) == manifest

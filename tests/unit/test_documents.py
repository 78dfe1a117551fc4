"""JSON that is read back: what is refused, in which words, and what a seal covers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from epg.documents import DocumentError, fields, parse, parse_object, sealed, shaped, unseal


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff{}", "it is not UTF-8 text"),
        ("{}".encode("utf-16"), "it is not UTF-8 text"),
        (b"[" * 100_000, "levels deep"),
        (b"[" * 66 + b"]" * 66, "more than 64 levels deep"),
        (b"9" * 4_400, "an integer of 4400 digits"),
        (b"1e999", "1e999 is not a number of JSON"),
        (b"[NaN]", "NaN is not a number of JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' twice"),
        (b'{"\\ud800": 1}', "half a surrogate pair"),
        (b'["\\udfff"]', "half a surrogate pair"),
        (b" " * 2_000 + b"{}", "2002 bytes, at most 1000"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason) as caught:
        parse(data, max_bytes=1_000 if data.startswith(b" ") else 1_000_000)
    assert "\n" not in str(caught.value)


def test_what_is_read() -> None:
    assert parse(b'{"a": [1, 2.5, null, true, "\\ud83d\\ude00"]}') == {
        "a": [1, 2.5, None, True, "\U0001f600"]
    }
    assert math.isnan(parse(b"[NaN]", nan=True)[0])
    assert parse(b"[" * 64 + b"]" * 64)
    with pytest.raises(DocumentError, match="it is a list, expected an object"):
        parse_object(b"[]")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "it is a list, expected an object"),
        ({}, "'count' is missing"),
        ({"count": True}, "'count' is true or false, expected an integer"),
        ({"count": 1.0}, "'count' is a number, expected an integer"),
        ({"count": 1, "other": 2}, "an unknown key 'other'"),
        ({"count": 1, "ratio": "x"}, "'ratio' is a text, expected a number or null"),
    ],
)
def test_keys_and_types(content: object, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        fields(content, {"count": int}, {"ratio": (float, type(None))})


def test_an_integer_is_a_number_too() -> None:
    assert fields({"ratio": 1}, {"ratio": float}) == {"ratio": 1}


def test_a_seal_covers_every_value() -> None:
    content: Any = {"a": [1, 0.1, float("nan")], "b": {"c": "é"}, 3: ()}
    read = json.loads(json.dumps(sealed(content)))
    assert unseal(read, required=True)["b"] == {"c": "é"}
    for key, value in (("a", [1, 0.9, float("nan")]), ("b", {}), ("new", None)):
        with pytest.raises(DocumentError, match="it was altered"):
            unseal({**read, key: value}, required=False)
    del read["seal"]
    assert unseal(read, required=False) == read
    with pytest.raises(DocumentError, match="missing"):
        unseal(read, required=True)


def test_of_a_reply_what_has_the_wanted_shape_is_kept() -> None:
    shape = {"name": str, "tasks": [{"state": str}], "by_key": {"": {"n": int}}}
    reply = {
        "name": 3,
        "tasks": [{"state": "FAILED", "other": 1}, None, {"state": []}, 7],
        "by_key": {"a": {"n": 1}, "b": "x", "c": {"n": True}},
        "more": {},
    }
    kept = {"tasks": [{"state": "FAILED"}, {}], "by_key": {"a": {"n": 1}, "c": {}}}
    assert shaped(reply, shape) == kept
    assert shaped([], shape) is None
    assert shaped({"tasks": "x"}, shape) == {"tasks": []}

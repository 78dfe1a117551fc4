"""The one reader of YAML: what scalars mean, and what is refused before it grows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epg.config.document import parse_document, parse_documents, write_document
from epg.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-007", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("2e-4", 2e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("0b11", "0b11"),
        ("2024-01-01", "2024-01-01"),
        ("2024-99-99", "2024-99-99"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("=", "="),
        ("{0.5: 0.1}", {0.5: 0.1}),
        ("-.inf", -math.inf),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_document(text, "x").content
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "expand to more than 200,000"),
        ("a: &a {b: *a}", "expand to more than 200,000"),
        (
            "x:\n"
            + "".join(
                f" - &a{i} [{', '.join([f'*a{i - 1}' if i else '1'] * 9)}]\n" for i in range(8)
            ),
            "expand to more than 200,000",
        ),
        (
            "x:\n - &a0 {k: 1}\n"
            + "".join(f" - &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 8)),
            "expand to more than 200,000",
        ),
        ("[" * 65 + "]" * 65, "at most 64 levels"),
        ("[" * 100_000, "at most 64 levels"),
        ("a: &a 1\nb: [" + "*a, " * 101 + "]", "more than 100 YAML aliases"),
        ("9" * 41, "at most 40 digits"),
        ("0x" + "f" * 5000, "at most 40 digits"),
        ("!!int x", "whole number"),
        ("!!bool maybe", "true or false"),
        ("!!float x", "'x' is no number"),
        ("!!timestamp 2024-99-99", "not valid YAML"),
        ("!!binary aGk=", "not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("? [a]\n: 1", "a key is a word"),
        ("a: 1\na: 2", "x:2: a appears twice"),
        ("--- 1\n--- 2", "2 YAML documents"),
        ("a: [", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)
def test_what_nobody_writes_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_document(text, "x")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_documents_of_a_file_come_in_order() -> None:
    found = [document.content for document in parse_documents("a: 1\n---\nb: 2\n", "x")]
    assert found == [{"a": 1}, {"b": 2}]


def test_aliases_and_merges_of_a_sane_size_work() -> None:
    text = "a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: *a"
    assert parse_document(text, "x").content == {
        "a": {"b": 1},
        "c": {"b": 1, "d": 2},
        "e": {"b": 1},
    }


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"[-+]?[0-9_:.exobinfa-]{1,12}", fullmatch=True))
def test_text_that_is_written_is_read_as_text(text: str) -> None:
    printable = text.encode("utf-8", "ignore").decode()
    assert parse_document(write_document({"a": printable}), "x").content == {"a": printable}

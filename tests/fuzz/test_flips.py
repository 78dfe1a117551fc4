"""A flipped bit at rest is noticed, or is shown to change nothing of what is read.

`make fuzz` flips every bit of a small object of each kind, `make test` some of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fuzz.stored import KINDS, REFUSALS, Kind

MOST = 8_000 if os.environ.get("EPG_TEST_FUZZ") else 40  # flips of an object


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    step = -(-8 * len(content) // MOST)
    for bit in range(0, 8 * len(content), step + step % 2 if step > 1 else 1):
        bit += bit // 8 % 8 if step > 1 else 0  # not always the same bit of a byte
        if bit >= 8 * len(content):
            return
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(data)


@pytest.mark.parametrize("name", KINDS)
def test_every_flipped_bit_is_noticed_or_harmless(
    stored: dict[str, Kind], name: str, record_property: Callable[[str, Any], None]
) -> None:
    kind = stored[name]
    told = Counter({"flips": 0, "noticed": 0, "harmless": 0})
    for bit, data in flipped(kind.content):
        told["flips"] += 1
        try:
            found = kind.read(data)
        except REFUSALS:
            told["noticed"] += 1
            continue
        if found is None:  # a lease that is none
            told["noticed"] += 1
        else:
            assert found == kind.value, f"bit {bit} of {name} is silent"
            told["harmless"] += 1
    assert told["noticed"] > 0.9 * told["flips"] > 0
    record_property(name, ", ".join(f"{count} {what}" for what, count in told.items()))


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_object_is_read(stored: dict[str, Kind], name: str) -> None:
    kind = stored[name]
    assert kind.value is not None
    assert kind.read(kind.content) == kind.value

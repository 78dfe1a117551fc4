"""Bad input made from good: JSON of other types, sizes and depths, and bytes cut and changed."""

from __future__ import annotations

import json
from random import Random
from typing import Any

_TEXTS = (
    *("", "x" * 5_000, "\x1b[2J\x1b]0;title\x07", "\n\r\x00", "../../x", "\ud800", "é" * 40),
    *("\u202egnp.exe", "NaN", "1e999", "<script>", "{{$.x}}", "/etc/passwd"),
)
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**39, 10**60),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], {"": None}, [None] * 30),
)
#: What no tree of values makes, but bytes can.
_RAW = (
    *(b"", b"null", b"[]", b'"x"', b"7", b"{", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"\0" * 100),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b'{"a": ' + b"1" * 4_400 + b"}"),
    *(b'{"a": 1, "a": 2}', b'{"a": "\\ud800"}', b'"\\ud800"', b'{"step": 1e999}', b"-"),
    *("{}".encode("utf-16"), b"{}" + b" " * 200_000, b"\x80\x04\x95", b"<html>503</html>"),
)


def mutated(random: Random, content: bytes) -> bytes:
    """Return a bad version of good bytes, JSON or not."""
    kind = random.randrange(10)
    if kind == 0:
        return random.choice(_RAW)
    try:
        tree = json.loads(content)
    except ValueError:
        return _altered(random, content)
    if kind <= 2:
        return _altered(random, content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        tree = _other(random, tree)
    if isinstance(tree, dict) and "seal" in tree and random.random() < 0.7:
        tree = _sealed_again(random, tree)
    return json.dumps(tree, ensure_ascii=random.random() < 0.8).encode("utf-8", "surrogatepass")


def _sealed_again(random: Random, tree: dict[str, Any]) -> dict[str, Any]:
    """Make the seal fit, so that what stands behind it is met; or take it away."""
    from epg.documents import sealed

    plain = {key: value for key, value in tree.items() if key != "seal"}
    return plain if random.random() < 0.2 else sealed(plain)


def _other(random: Random, tree: Any) -> Any:
    """Return a tree with one value, key or list changed somewhere."""
    if isinstance(tree, dict) and tree and random.random() < 0.85:
        key = random.choice(list(tree))
        changed = dict(tree)
        what = random.random()
        if what < 0.6:
            changed[key] = _other(random, tree[key])
        elif what < 0.75:
            del changed[key]
        elif what < 0.9:
            changed[random.choice((key + "x", *_TEXTS[2:6]))] = changed.pop(key)
        else:
            changed[random.choice(_TEXTS)] = random.choice(_ODD)
        return changed
    if isinstance(tree, list) and tree and random.random() < 0.7:
        index = random.randrange(len(tree))
        if random.random() < 0.3:
            return tree * random.choice((0, 2, 50))
        return [*tree[:index], _other(random, tree[index]), *tree[index + 1 :]]
    deep: Any = 0
    for _ in range(random.choice((3, 80))):
        deep = [deep]
    return random.choice((*_ODD, *_TEXTS, deep))


def _altered(random: Random, content: bytes) -> bytes:
    """Return bytes that are cut, longer, or other in a few places."""
    data = bytearray(content)
    kind = random.randrange(5)
    if kind == 0:
        return bytes(data[: random.randrange(len(data) + 1)])
    if kind == 1:
        return bytes(data) + random.randbytes(random.choice((1, 10, 5_000)))
    if kind == 2:
        start = random.randrange(len(data))
        del data[start : start + random.choice((1, 8, 100))]
        return bytes(data)
    for _ in range(random.choice((1, 3, 30))):
        data[random.randrange(min(len(data), 4_000))] = random.choice(
            (0, 0xFF, random.randrange(256))
        )
    return bytes(data)

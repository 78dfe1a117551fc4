"""JSON that `epg` wrote and reads back: bounded and typed, with a digest over itself.

What is read may be garbage: cut, flipped, written by another program, or made to hurt. `parse`
bounds it, `fields` checks its keys and types, `unseal` its digest. All raise `DocumentError` with
the reason alone; the caller names the object, and says what to do next.

A seal is no signature: it tells damage from what was written, not one writer from another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

MAX_BYTES: Final = 16 * 1024**2
MAX_DEPTH: Final = 64
SEAL: Final = "seal"
_MAX_DIGITS = 40  # of an integer; Python refuses to read more than 4,300
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: What a value may be: a type, or several. An `int` is no `bool`; a `float` may be written as int.
Kind = type | tuple[type, ...]


class DocumentError(ValueError):
    """Why some bytes are not the document that they should be, in a few words."""


def parse(
    data: bytes | str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH, nan: bool = False
) -> Any:
    """Read JSON of bounded size and depth, with text that can be encoded and no key twice.

    Args:
        data: UTF-8.
        max_bytes: more are refused unread.
        max_depth: of lists and objects within each other.
        nan: let NaN and infinities through, which Python writes and JSON does not know.

    Raises:
        DocumentError: it is no such JSON.
    """
    if len(data) > max_bytes:
        raise DocumentError(f"it has {len(data)} bytes, at most {max_bytes} are read")
    try:
        text = data if isinstance(data, str) else data.decode()
        content = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=float if nan else _finite,
            parse_constant=None if nan else _finite,
        )
    except DocumentError:
        raise
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise DocumentError(f"it is more than {max_depth} levels deep") from None
    except ValueError as error:
        raise DocumentError(f"it is not JSON ({error})") from None
    if text.count("[") + text.count("{") > max_depth or "\\u" in text or isinstance(data, str):
        _check_tree(content, max_depth)
    return content


def parse_object(
    data: bytes | str, *, max_bytes: int = MAX_BYTES, nan: bool = False
) -> dict[str, Any]:
    """Read a JSON object; see `parse`."""
    content = parse(data, max_bytes=max_bytes, nan=nan)
    if not isinstance(content, dict):
        raise DocumentError(f"it is {_named(content)}, expected an object")
    return content


def fields(
    content: Any, wanted: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> dict[str, Any]:
    """Return an object that has exactly these keys, with values of these types.

    Args:
        content: what was read.
        wanted: key -> type.
        optional: the same of keys that may be missing.

    Raises:
        DocumentError: it is no object, or one of its keys is missing, unknown or of another type.
    """
    if not isinstance(content, dict):
        raise DocumentError(f"it is {_named(content)}, expected an object")
    allowed = {**wanted, **(optional or {})}
    for key in wanted:
        if key not in content:
            raise DocumentError(f"{key!r} is missing")
    for key, value in content.items():
        if key not in allowed:
            raise DocumentError(f"it has an unknown key {key[:40]!r}")
        if not _is(value, allowed[key]):
            raise DocumentError(f"{key!r} is {_named(value)}, expected {_kinds(allowed[key])}")
    return content


def shaped(content: Any, shape: Any) -> Any:
    """Return what of a reply has the wanted shape; the rest is left out.

    For what others write: keys that we do not read are no fault, and what is not there is None.

    Args:
        content: what was read.
        shape: a type; `[shape]`, a list of such; `{key: shape}`, an object with such keys, of
            which `""` stands for any other.
    """
    if isinstance(shape, list):
        listed = content if isinstance(content, list) else []
        return [found for one in listed if (found := shaped(one, shape[0])) is not None]
    if isinstance(shape, dict):
        if not isinstance(content, dict):
            return None
        wanted = {key: shape[key] if key in shape else shape.get("") for key in content}
        found = {key: shaped(content[key], kind) for key, kind in wanted.items() if kind}
        return {key: value for key, value in found.items() if value is not None}
    return content if _is(content, shape) else None


def is_sha256(text: object) -> bool:
    """Tell whether this is a SHA-256 as we write it: 64 small hexadecimal digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as JSON will have it, with the digest of itself under `seal`."""
    plain = json.loads(json.dumps(content))
    return {**plain, SEAL: _digest(plain)}


def unseal(content: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    """Return an object without its seal, which is checked.

    Args:
        content: what was read.
        required: refuse one that has none, as version 0.1 wrote them.

    Raises:
        DocumentError: the seal is missing or does not fit.
    """
    plain = {key: value for key, value in content.items() if key != SEAL}
    if SEAL not in content:
        if required:
            raise DocumentError(f"its {SEAL!r}, the digest over itself, is missing")
    elif content[SEAL] != _digest(plain):
        raise DocumentError(f"it does not fit its {SEAL!r}, the digest over itself: it was altered")
    return plain


def without_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers as JSON can have them: what is no finite number is null."""
    unfit = {name for name, n in numbers.items() if isinstance(n, float) and not math.isfinite(n)}
    return {name: None if name in unfit else number for name, number in numbers.items()}


def written(content: Any) -> bytes:
    """Return content as strict JSON for people to read. Raises `ValueError` for a NaN in it."""
    return f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode()


def _digest(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise DocumentError(f"it has the key {twice[:40]!r} twice")
    return content


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise DocumentError(f"it has an integer of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise DocumentError(f"{text[:40]} is not a number of JSON")
    return number


def _check_tree(content: Any, max_depth: int) -> None:
    """Refuse what is too deep, and halves of surrogate pairs, which no file or terminal takes."""
    level = [content]
    for _ in range(max_depth + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise DocumentError(f"it is more than {max_depth} levels deep")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DocumentError("it has half a surrogate pair in its text") from None


def _is(value: Any, kind: Kind) -> bool:
    if isinstance(kind, tuple):
        return any(_is(value, one) for one in kind)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def _named(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _kinds(kind: Kind) -> str:
    return " or ".join(_NAMES[one] for one in (kind if isinstance(kind, tuple) else (kind,)))

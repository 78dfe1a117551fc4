"""What differs between two sets of settings: in words, and as settings that make up for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import Any, Final, NamedTuple


class _Absent:
    """Where there is no key. `None` is a value: `evaluate.svc=null` is a setting."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


class Change(NamedTuple):
    """A setting that differs, by its path of keys; `ABSENT` where one side has no such key."""

    path: tuple[str, ...]
    before: Any
    after: Any


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[Change]:
    """Yield every setting that differs between two nested mappings, by name."""
    for key in sorted(set(old) | set(new)):
        here, before, after = (*path, key), old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changes(before, after, here)
        elif before != after:
            yield Change(here, before, after)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List `key: old -> new` for every setting that differs between two nested mappings."""
    return [f"{'.'.join(c.path)}: {c.before!r} -> {c.after!r}" for c in changes(old, new)]


def settings_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the `key=value` of `--set` that make the recipe `new` of the recipe `old`."""
    found: dict[str, Any] = {}
    for path, _, after in changes(old, new):
        if after is ABSENT or "." in path[-1]:  # no key says that: the mapping around it does
            path, after = path[:-1], reduce(getitem, path[:-1], new)
        found[".".join(path)] = after
    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in found.items()
        if not any(key.startswith(f"{around}.") for around in found)
    ]

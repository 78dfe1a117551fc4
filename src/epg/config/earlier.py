"""Keys that recipes of version 0.1 have, in the words of today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Key of version 0.1 -> what says it now; the new key's own description explains it.
RENAMED = {
    "consistency.num_stages": "consistency.steps_per_stage",
    "evaluate.features": "evaluate.networks",
}


def _steps_per_stage(section: Mapping[str, Any], stages: Any) -> int | None:
    """Spread the stages over the training's steps, each of whole steps, rounded up."""
    steps = section.get("steps")
    if any(type(number) is not int or number < 1 for number in (steps, stages)):
        return None
    assert steps is not None
    return -(-int(steps) // int(stages))


def _networks(section: Mapping[str, Any], name: Any) -> list[str] | None:
    return [name] if isinstance(name, str) else None


_TRANSLATIONS: dict[str, Callable[[Mapping[str, Any], Any], Any]] = {
    "consistency.num_stages": _steps_per_stage,
    "evaluate.features": _networks,
}


def translate(content: dict[str, Any]) -> dict[str, str]:
    """Write old keys of a recipe anew, in place; return new key -> old one of those.

    What has both, or a value that cannot be understood, stays as it is, to be refused.
    """
    found = {}
    for old, new in RENAMED.items():
        section_name, old_name = old.split(".")
        new_name = new.split(".")[1]
        section = content.get(section_name)
        if not isinstance(section, dict) or old_name not in section or new_name in section:
            continue
        value = _TRANSLATIONS[old](section, section[old_name])
        if value is not None:
            del section[old_name]
            section[new_name] = value
            found[new] = old
    return found

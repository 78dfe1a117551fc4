"""The outcome of a check: its name, how it went, and what was found or how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from epg.errors import UserError

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    outcome: str
    text: str


def tried(name: str, function: Callable[[], str]) -> Check:
    """Make a check of a function that returns what is good or raises what to mend."""
    try:
        return Check(name, OK, function())
    except UserError as error:
        return Check(name, FAILED, str(error))

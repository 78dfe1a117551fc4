"""Places for the objects that are made bad, and the figures that `make fuzz` prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fuzz.stored import Kind, kinds


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    """An object of every kind that is stored; nobody waits before a second look at it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("store.reading", "data.shard_reading", "training.checkpoints"):
            patch.setattr(f"epg.{module}.PAUSE_SECONDS", 0.0)
        yield kinds(tmp_path_factory.mktemp("stored"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was counted."""
    if "EPG_TEST_FUZZ" not in os.environ:
        return
    terminalreporter.section("figures")
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in report.user_properties:
                terminalreporter.line(f"{name}: {text}")

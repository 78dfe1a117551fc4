"""Ways that take turns, their CPU and wall time, and the JSON that a benchmark leaves."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = "epg"
Way = Callable[[], Any]


def take_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, dict[str, float]]:
    """Call every way once a round; return the least CPU and wall seconds of each.

    CPU is of this process with all its threads and of its children.
    """
    found: dict[str, dict[str, float]] = {
        name: {"cpu": float("inf"), "wall": float("inf")} for name in ways
    }
    for _ in range(rounds):
        for name, way in ways.items():
            cpu, wall = _cpu(), time.perf_counter()
            way()
            best = found[name]
            best["cpu"] = min(best["cpu"], _cpu() - cpu)
            best["wall"] = min(best["wall"], time.perf_counter() - wall)
    return found


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ratios(rows: Mapping[str, Mapping[str, float]], of: str = "cpu") -> dict[str, float]:
    """Return how many times faster we are than each peer: their time by ours.

    Rows that begin with our own name, such as `epg, undigested`, are no peers.
    """
    ours = rows[OURS][of]
    return {name: row[of] / ours for name, row in rows.items() if not name.startswith(OURS)}


def peak_memory() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_memory() -> int:
    """Return the memory that this process has now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def report(name: str, output: Path | None, content: Mapping[str, Any]) -> None:
    """Print the ratios, and write all that was measured."""
    whole = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **content,
    }
    for case, row in content["ratios"].items():
        for peer, ratio in row.items():
            print(f"{case:24} {ratio:7.2f} x {peer}")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

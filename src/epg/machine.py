"""This machine as a process sees it: the cores that it may use, and who another process is."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def available_cores() -> int:
    """Cores this process may use: its affinity, bounded by the container's CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, quota) if quota else cores)


def memory_limit() -> int:
    """Bytes that this process may use: the machine's memory, bounded by the container's limit."""
    limits = [psutil.virtual_memory().total, *_cgroup_memory()]
    return min(limits)


def process_started(pid: int) -> float | None:
    """Return when a process began; None where there is none, or only a zombie.

    With the process id the moment names one process for ever, since ids of ended processes are
    given to new ones. Seconds since boot on Linux: there psutil adds the time of the boot, which
    moves whenever the clock is set. Elsewhere seconds since 1970.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        if not psutil.LINUX:
            return process.create_time()
        while True:
            boot = psutil.boot_time()
            started = psutil.Process(pid).create_time() - boot
            if psutil.boot_time() == boot:  # else the clock was set between the two looks
                return round(started, 2)
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # also an id that none can have
        return None


def process_space() -> str:
    """Return an identity of this boot and pid namespace, where the system tells it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the container's CPU quota in whole cores: cgroup v2 or v1, None where unlimited."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if not quota.isdecimal():  # "max", or -1 in v1
            return None
        return max(1, round(int(quota) / int(period)))
    return None


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the container's memory limit in bytes: cgroup v2 or v1; nothing where unlimited."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        return [int(text)] if text.isdecimal() else []
    return []

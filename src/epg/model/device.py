"""Where the numbers are crunched: device, threads, determinism. Set once per process."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def available_cores() -> int:
    """Cores this process may use: its affinity, bounded by the container's CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, quota) if quota else cores)


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


def prepare_device() -> torch.device:
    """Choose the device, set threads and deterministic kernels, and return the device."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    # cuBLAS is deterministic only with a fixed workspace; it reads this at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

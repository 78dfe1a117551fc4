"""Where the numbers are crunched: device, threads, determinism. Set once per process."""

from __future__ import annotations

import os

import torch

from epg.machine import available_cores


def prepare_device() -> torch.device:
    """Choose the device, set threads and deterministic kernels, and return the device."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    # cuBLAS is deterministic only with a fixed workspace; it reads this at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

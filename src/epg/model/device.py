"""Where the numbers are crunched: device, threads, determinism. Set once per process."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

from epg.errors import UserError
from epg.machine import available_cores

DETERMINISTIC_VARIABLE = "EPG_DETERMINISTIC"


def prepare_device(local_rank: int = 0, processes: int = 1) -> torch.device:
    """Choose the device, set threads and deterministic kernels, and return the device.

    Args:
        local_rank: number of this process on its machine, which is its GPU's.
        processes: processes of this machine that share its cores.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(available_cores() // processes, 1))
    # cuBLAS is deterministic only with a fixed workspace; it reads this at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On a GPU the attention of cuDNN is the one part that is not, unless it is asked for: the
    # backward pass of another kernel is slower.
    strict = os.environ.get(DETERMINISTIC_VARIABLE, "0") == "1"
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = strict  # else new tensors would be written twice
    warnings.filterwarnings("ignore", message="cuDNN Attention defaults to a non-deterministic")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: there are "
            f"{torch.cuda.device_count()}; start one process for each"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device

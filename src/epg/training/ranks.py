"""A world of several processes: PyTorch's process group, NCCL on GPUs and gloo on CPUs."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from epg.errors import UserError
from epg.model.device import prepare_device
from epg.training.place import Place
from epg.training.world import World

TIMEOUT_VARIABLE = "EPG_RANK_TIMEOUT"
_TIMEOUT = 600.0  # seconds that a process waits for the others

# BatchNorm's buffers are made of all ranks' images already. Newer versions of PyTorch have
# another name for the argument.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_KEPT_BUFFERS: dict[str, Any] = {
    ("forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"): False
}


def patience() -> timedelta:
    """How long a process waits for the others before it gives up."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text) if text else _TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{TIMEOUT_VARIABLE} is {text!r}: give a number of seconds, such as 600")
    return timedelta(seconds=seconds)


def device_of(place: Place) -> torch.device:
    """Return the device of a process: the GPU of its number on its machine, or the CPU."""
    return prepare_device(place.local_rank, place.local_size)


def meeting_point(place: Place, wait: timedelta) -> tuple[dist.Store, int]:
    """Open, or reach, the store by which the processes of this start find each other.

    Returns:
        The store, and the port of its server.

    Raises:
        UserError: the first process cannot be reached within `wait`.
    """
    hosts = place.leads and not place.agent
    try:
        server = dist.TCPStore(
            place.host, place.port, is_master=hosts, wait_for_workers=False, timeout=wait
        )
    except (dist.DistError, RuntimeError) as error:
        what = "cannot listen there" if hosts else "nobody answers there"
        raise UserError(
            f"rank {place.rank} of {place.size} looks for the others at "
            f"{place.host}:{place.port}: {what} within {wait.total_seconds():.0f} s; check "
            "MASTER_ADDR and MASTER_PORT, and that the first process runs"
        ) from error
    return dist.PrefixStore(f"epg/{place.attempt}", server), server.port


@contextlib.contextmanager
def joined(place: Place, store: dist.Store, device: torch.device) -> Iterator[World]:
    """Join the others, and part from them at the end.

    Raises:
        UserError: not all of them came.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.size, timeout=patience()
        )
        dist.barrier()
    except (dist.DistError, RuntimeError) as error:
        raise UserError(
            f"rank {place.rank} could not meet the other {place.size - 1} processes "
            f"({backend}): {_first_line(error)}"
        ) from error
    try:
        yield _world(place, device)
    finally:
        dist.destroy_process_group()


def abort() -> None:
    """Let go of collectives that wait for a process which is gone; from any thread."""
    with contextlib.suppress(Exception):  # nothing to abort is as good
        group: Any = dist.distributed_c10d._get_default_group()
        group._get_backend(torch.device("cuda")).abort()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _world(place: Place, device: torch.device) -> World:
    size = place.size

    def gather(tensor: Tensor) -> Tensor:
        gathered = tensor.new_empty((size * len(tensor), *tensor.shape[1:]))
        dist.all_gather_into_tensor(gathered, tensor.detach().contiguous())
        return gathered

    def reduce(tensor: Tensor) -> Tensor:
        reduced = tensor.detach().clone()
        dist.all_reduce(reduced)
        return reduced / size

    def decide(value: int) -> int:
        decided = torch.tensor([value])  # on the host, by gloo: no GPU is waited for
        dist.broadcast(decided, 0)
        return int(decided)

    def share(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def parallel(module: nn.Module) -> nn.Module:
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_KEPT_BUFFERS,
        )

    return World(place.rank, size, device, gather, reduce, _Total.apply, decide, share, parallel)


class _Total(torch.autograd.Function):
    """The sum over all ranks, in both directions."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        del context
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        del context
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total

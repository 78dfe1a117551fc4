"""Where this process stands among those that train together, as its environment says.

Nothing here loads PyTorch: a command asks before it knows whether there is anything to train.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from epg.errors import UserError

PROCESSES_VARIABLE = "EPG_PROCESSES"
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """One process among `size`.

    Attributes:
        rank: this process, 0 ... size - 1. The first one leads: it alone keeps records.
        size: processes in all.
        local_rank: its number on its machine, which is also its GPU's.
        local_size: processes on its machine.
        host: machine of the first process.
        port: where they meet there; 0: any free one.
        starts: whether this process starts the others of its machine.
        agent: whether the meeting point is kept by `torchrun` already.
        attempt: which start of all processes this is; `torchrun` may start them again, and keeps
            what the start before has left at the meeting point.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str = _LOOPBACK
    port: int = 0
    starts: bool = False
    agent: bool = False
    attempt: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def neighbour(self, local_rank: int, port: int) -> Place:
        """Return the place of another process of this machine."""
        first = self.rank - self.local_rank
        return Place(first + local_rank, self.size, local_rank, self.local_size, self.host, port)

    def environment(self) -> dict[str, str]:
        """Return the variables by which a process finds this place; `torchrun` sets the same."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }


def given_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return the place that something outside gave this process; None: it trains alone.

    `torchrun` gives every process its rank. A TrainJob gives every machine its number (`PET_*`),
    and leaves it to the command to start the processes there.

    Raises:
        UserError: a variable that is no number.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Place(
            rank=_number(environment, "RANK"),
            size=_number(environment, "WORLD_SIZE"),
            local_rank=_number(environment, "LOCAL_RANK", 0),
            local_size=_number(environment, "LOCAL_WORLD_SIZE", 1),
            host=environment.get("MASTER_ADDR", _LOOPBACK),
            port=_number(environment, "MASTER_PORT", 29500),
            agent=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
        )
    nodes = _number(environment, "PET_NNODES", 1)
    if nodes == 1:
        return None
    local_size = local_processes(environment)
    return Place(
        rank=_number(environment, "PET_NODE_RANK") * local_size,
        size=nodes * local_size,
        local_rank=0,
        local_size=local_size,
        host=environment.get("PET_MASTER_ADDR", _LOOPBACK),
        port=_number(environment, "PET_MASTER_PORT", 29500),
        starts=local_size > 1,
    )


def follows(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process only helps another that leads."""
    place = given_place(environment)
    return place is not None and not place.leads


def local_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes train on this machine: one for each GPU unless told otherwise."""
    if PROCESSES_VARIABLE in environment:
        return _number(environment, PROCESSES_VARIABLE, least=1)
    wanted = environment.get("PET_NPROC_PER_NODE", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    import torch

    return max(torch.cuda.device_count(), 1)


def _number(
    environment: Mapping[str, str], name: str, default: int | None = None, least: int = 0
) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal() or not least <= int(text) < 2**16:
        raise UserError(
            f"the environment says {name}={text!r}: it must be a whole number from {least} on"
        )
    return int(text)

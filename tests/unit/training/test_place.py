"""What the environment says of the processes that train together."""

from __future__ import annotations

import pytest

from epg.errors import UserError
from epg.training.place import Place, follows, given_place, local_processes

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "1234",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
TRAIN_JOB = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "node-0",
    "PET_MASTER_PORT": "29500",
}


def test_alone_where_nothing_is_said() -> None:
    assert given_place({}) is None
    assert given_place({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "4"}) is None
    assert not follows({})


def test_torchrun_gives_every_process_its_rank() -> None:
    assert given_place(TORCHRUN) == Place(3, 8, 1, 2, "first", 1234, agent=True)
    assert follows(TORCHRUN)
    assert not follows(TORCHRUN | {"RANK": "0"})
    again = given_place(TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "2"})
    assert again is not None
    assert again.attempt == 2


def test_a_train_job_gives_every_machine_its_number() -> None:
    place = given_place(TRAIN_JOB)
    assert place == Place(4, 8, 0, 4, "node-0", 29500, starts=True)
    assert place is not None
    assert follows(TRAIN_JOB)
    assert place.neighbour(2, 29500) == Place(6, 8, 2, 4, "node-0", 29500)
    assert given_place(place.neighbour(2, 29500).environment()) == place.neighbour(2, 29500)


def test_processes_of_a_machine() -> None:
    assert local_processes({"EPG_PROCESSES": "3"}) == 3
    assert local_processes({"PET_NPROC_PER_NODE": "2"}) == 2
    assert local_processes({"PET_NPROC_PER_NODE": "auto"}) >= 1


@pytest.mark.parametrize("text", ["0", "two", "-1", "99999"])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"EPG_PROCESSES='{text}'"):
        local_processes({"EPG_PROCESSES": text})

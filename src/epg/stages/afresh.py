"""Begin again at a stage: its results, and all that were made of them, are thrown away."""

from __future__ import annotations

import contextlib

from epg.errors import UserError, did_you_mean
from epg.runs.record import record_key
from epg.runs.run import Run
from epg.stages.catalog import STAGES, stages_after
from epg.store.lease import Lease


def check_stage(stage: str, given_as: str) -> None:
    """Refuse a stage that does not exist, naming the nearest one.

    Args:
        stage: its name.
        given_as: the option or parameter that named it.
    """
    if stage not in STAGES:
        hint = did_you_mean(stage, STAGES, cutoff=0.5)
        raise UserError(f"{given_as} {stage}: no such stage{hint}: {', '.join(STAGES)}")


def begin_again(run: Run, stage: str) -> list[str]:
    """Throw away the results of a stage and of all that used them; return their names.

    Records go first: a result without its record is never taken for a whole one.

    Raises:
        InUse: somebody is at one of these stages; nothing is thrown away.
    """
    stages = stages_after(stage)
    with contextlib.ExitStack() as stack:
        for name in stages:
            owner = f"--from {stage} of run {run.name}"
            stack.enter_context(Lease(run.store, f"leases/{name}", owner))
        for name in stages:
            run.store.delete(record_key(name))
            run.store.delete(f"failures/{name}.json")
        for name in stages:
            run.store.clear("shards" if name == "shard" else name)
    return stages

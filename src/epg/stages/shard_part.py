"""Step `shard-part`: one of several processes that write the shards of a run together.

It leaves shards and a note beside each, nothing else; stage `shard` gathers them, and writes what
is still missing. Who has written a shard, and how many parts there were, changes nothing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from epg.errors import UserError
from epg.runs.entry import Component
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.runs.versions import versions
from epg.stages.catalog import SHARD_PART
from epg.stages.changes import CONTENTS_NAME, noted_contents, present_contents
from epg.stages.settings import shard_config, shards_folder
from epg.store.held import HeldStore
from epg.store.lease import Lease
from epg.telemetry.progress import StageReporter

_MOST_PARTS = 1000


def shard_part(run: Run, part: str) -> StageRecord:
    """Write a part of the recipe's images as shards into the run's store.

    Args:
        run: the run.
        part: `I/N`: the I-th of N parts, from 1.

    Returns:
        A record, which is not stored: shards say themselves that they are there.

    Raises:
        UserError: no such part, an unusable source or store, too many bad images; somebody else is
            at this part.
    """
    number, parts = read_part(part)
    started, reporter = datetime.now(UTC), StageReporter(SHARD_PART.name)
    reporter.started()
    owner = f"part {part} of the shards of run {run.name}"
    with Lease(run.store, f"leases/shard-part-{number}-of-{parts}", owner) as lease:
        noted = noted_contents(run)
        contents = present_contents(run, noted, reporter)
        prefix = shards_folder(run.recipe, contents.digest)
        store = HeldStore(run.store, lease)
        if noted.get(prefix) != contents:
            store.put_bytes(f"{prefix}/{CONTENTS_NAME}", contents.to_bytes())
        images = 0

        def on_progress(done: int, total: int, values: dict[str, float]) -> None:
            nonlocal images
            images = done
            reporter.progress(done, total, unit="images", **values)

        from epg.data.sharding import write_part
        from epg.data.sources import open_source

        data, seed = run.recipe.data, run.recipe.seed
        source = open_source(data.source, data, seed, contents)
        write_part(source, data, seed, store, prefix, number - 1, parts, on_progress)
    finished = datetime.now(UTC)
    reporter.finished({"images": images})
    return StageRecord(
        stage=SHARD_PART.name,
        fingerprint="",
        config=shard_config(run.recipe),
        inputs={"source": contents.digest},
        outputs={},
        metrics={"images": images},
        details={"part": part},
        started=started.isoformat(timespec="seconds"),
        finished=finished.isoformat(timespec="seconds"),
        duration_seconds=round((finished - started).total_seconds(), 3),
        versions=versions(),
    )


def read_part(part: str) -> tuple[int, int]:
    """Return I and N of `I/N`. Raises `UserError` for anything else."""
    match = re.fullmatch(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", part)
    if match is None or not int(match[1]) <= int(match[2]) <= _MOST_PARTS:
        raise UserError(
            f"part {part!r}: write I/N, the I-th of N parts from 1 to {_MOST_PARTS}, such as 2/4"
        )
    return int(match[1]), int(match[2])


shard_part_component = Component(shard_part)

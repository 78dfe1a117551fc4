"""Step `shard-part`: one of several processes that write the shards of a run together.

It leaves shards and a note beside each, nothing else; stage `shard` gathers them, and writes what
is still missing. Who has written a shard, and how many parts there were, changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from epg.runs.entry import Component
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.catalog import SHARD_PART
from epg.stages.parts import lease_of, noted_now, passing_record, read_part
from epg.store.held import HeldStore
from epg.store.lease import Lease
from epg.telemetry.progress import StageReporter


def shard_part(run: Run, part: str) -> StageRecord:
    """Write a part of the recipe's images as shards into the run's store.

    Args:
        run: the run.
        part: `I/N`: the I-th of N parts, from 1.

    Returns:
        A record, which is not stored. Metrics: `images`.

    Raises:
        UserError: no such part, an unusable source or store, too many bad images; somebody else is
            at this part, or at the run with another recipe.
    """
    number, parts = read_part(part)
    started, reporter = datetime.now(UTC), StageReporter(SHARD_PART.name)
    reporter.started()
    owner = f"part {part} of the shards of run {run.name}"
    with Lease(run.store, lease_of(number, parts), owner) as lease:
        store = HeldStore(run.store, lease)
        contents, prefix = noted_now(run, store, reporter)
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
    reporter.finished({"images": images})
    return passing_record(run, SHARD_PART, contents, started, {"images": images})


shard_part_component = Component(shard_part)

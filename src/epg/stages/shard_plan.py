"""Step `shard-plan`: which parts of the shards other pods are to write.

It notes what the images are, so that each of those pods need not read all of them to find out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from epg.runs.entry import Component
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.catalog import SHARD_PLAN
from epg.stages.parts import noted_now, passing_record, read_parts
from epg.telemetry.progress import StageReporter


def shard_plan(run: Run, shard_parts: int) -> StageRecord:
    """Divide the shards of a run.

    Args:
        run: the run.
        shard_parts: into how many parts; the last is that of stage `shard`.

    Returns:
        A record, which is not stored. Metrics: `parts`, a list of `I/N` for step `shard-part`.

    Raises:
        UserError: no such number, an unusable source or store.
    """
    parts = read_parts(shard_parts)
    started, reporter = datetime.now(UTC), StageReporter(SHARD_PLAN.name)
    reporter.started()
    contents, _ = noted_now(run, run.store, reporter)
    reporter.finished({"parts": parts})
    others = [f"{part}/{parts}" for part in range(1, parts)]
    return passing_record(run, SHARD_PLAN, contents, started, {"parts": others})


shard_plan_component = Component(shard_plan, returns="parts")

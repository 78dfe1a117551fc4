"""The shards of a run in parts, each written by a process of its own: what they share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from epg.errors import UserError
from epg.runs.claim import claim_run
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.runs.stage import Stage
from epg.runs.versions import versions
from epg.stages.changes import CONTENTS_NAME, noted_contents, present_contents
from epg.stages.settings import shard_config, shards_folder
from epg.store import Store
from epg.store.lease import Watch
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    from epg.data.sources import Contents

MOST_PARTS = 64  # wide loops of pods are a trouble of Kubeflow's


def read_part(part: str) -> tuple[int, int]:
    """Return I and N of `I/N`. Raises `UserError` for anything else."""
    match = re.fullmatch(r"([1-9][0-9]?)/([1-9][0-9]?)", part)
    if match is None or not int(match[1]) <= int(match[2]) <= MOST_PARTS:
        raise UserError(
            f"part {part!r}: write I/N, the I-th of N parts from 1 to {MOST_PARTS}, such as 2/4"
        )
    return int(match[1]), int(match[2])


def read_parts(parts: Any) -> int:
    """Return into how many parts; Kubeflow hands numbers over as it likes. Raises `UserError`."""
    known = isinstance(parts, int | float) and type(parts) is not bool
    if not known or not 1 <= parts <= MOST_PARTS or parts != int(parts):
        raise UserError(f"shard_parts is {parts!r}: write a whole number from 1 to {MOST_PARTS}")
    return int(parts)


def lease_of(part: int, parts: int) -> str:
    """Return the key of the lease that a part is written under; parts count from 1."""
    return f"leases/shard-part-{part}-of-{parts}"


class OtherPods:
    """Who writes the parts before the last: those that hold the parts' leases."""

    def __init__(self, run: Run, parts: int) -> None:
        """Look at a run whose shards are written in so many parts."""
        self.parts, self._watch = parts, Watch(run.store)

    def at_work(self, part: int) -> bool:
        """Tell whether somebody is at a part, from 0."""
        return self._watch.held(lease_of(part + 1, self.parts))


def noted_now(run: Run, store: Store, reporter: StageReporter) -> tuple[Contents, str]:
    """Return what the images are now and the folder of their shards; note it for the next one.

    Raises:
        InUse: another pipeline run is at the run with another recipe.
        UserError: an unusable source.
    """
    claim_run(run)
    noted = noted_contents(run)
    contents = present_contents(run, noted, reporter)
    prefix = shards_folder(run.recipe, contents.digest)
    if noted.get(prefix) != contents:
        store.put_bytes(f"{prefix}/{CONTENTS_NAME}", contents.to_bytes())
    return contents, prefix


def passing_record(
    run: Run, stage: Stage, contents: Contents, started: datetime, metrics: dict[str, Any]
) -> StageRecord:
    """Build a record that is not stored: the shards say themselves that they are there."""
    finished = datetime.now(UTC)
    return StageRecord(
        stage=stage.name,
        fingerprint="",
        config=shard_config(run.recipe),
        inputs={"source": contents.digest},
        outputs={},
        metrics=metrics,
        details={},
        started=started.isoformat(timespec="seconds"),
        finished=finished.isoformat(timespec="seconds"),
        duration_seconds=round((finished - started).total_seconds(), 3),
        versions=versions(),
    )

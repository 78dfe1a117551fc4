"""Whose recipe a run has: two pipeline runs of one name do not mix their results.

`recipe.yaml` is the recipe of the run's results. On a cluster no process outlives the steps, so a
pipeline run that starts leaves a claim, `claim.json`, by a conditional put, and its report, which
the engine runs at the end whatever happened, takes it away. Until then a pipeline run of the same
name goes on only with the same recipe; with another one each of its steps stops and says what
differs. On one machine `epg run` keeps others out by its lock, and leaves no claim.

The report also writes down that its pipeline run has ended (`ended.json`). Such a run comes back when
somebody presses *Retry*, and then the engine runs no report: it makes no claim, which nobody would
take away, and its steps stop where another pipeline run has begun meanwhile with another recipe.

After the end the recipe may change, as `epg_evaluate` does: each stage looks at the settings that
its own result depends on, and training stages refuse to be changed (`epg.runs.perform`).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from epg.config.comparison import differences
from epg.config.loading import dump_recipe
from epg.documents import Kind, fields, parse_object, sealed, unseal
from epg.errors import one_line
from epg.runs.run import RECIPE_KEY, Run, pipeline_run
from epg.store.base import ObjectExists, ObjectNotFound
from epg.store.lease import InUse

CLAIM_KEY = "claim.json"
ENDED_KEY = "ended.json"
_ENDED_KEPT = 20  # the last ones: who retries an older one leaves a claim
_FIELDS: dict[str, Kind] = {"pipeline_run": str, "since": float, "recipe": dict}
_SHOWN = 5  # differences


@dataclass(frozen=True)
class _Claim:
    """A pipeline run that is under way, and its recipe."""

    pipeline_run: str
    since: datetime
    recipe: dict[str, Any]


def settle_recipe(run: Run) -> None:
    """Make sure that the run's recipe is ours, and lay it beside the results.

    Raises:
        InUse: see `claim_run`.
    """
    claim_run(run)
    text = dump_recipe(run.recipe).encode()
    if _bytes(run, RECIPE_KEY) != text:
        run.store.put_bytes(RECIPE_KEY, text)


def claim_run(run: Run) -> None:
    """Claim a run for our pipeline run; every step of a run does so first.

    Raises:
        InUse: another pipeline run is at it with another recipe; the message says what differs.
    """
    ours, recipe = pipeline_run(), run.recipe.model_dump(mode="json")
    claim = _read(run)
    if claim is None and ours and ours not in _ended(run):
        content = json.dumps(sealed({"pipeline_run": ours, "since": time.time(), "recipe": recipe}))
        try:
            run.store.put_bytes(CLAIM_KEY, content.encode(), if_absent=True)
        except ObjectExists:
            claim = _read(run)
    if claim is not None and claim.pipeline_run != ours and claim.recipe != recipe:
        raise _refusal(run, claim, differences(claim.recipe, recipe))


def release_recipe(run: Run) -> None:
    """Let others choose another recipe: our pipeline run has come to its end."""
    ours, claim = pipeline_run(), _read(run)
    if ours:
        ended = [name for name in _ended(run) if name != ours][1 - _ENDED_KEPT :]
        content = json.dumps(sealed({"pipeline_runs": [*ended, ours]}))
        run.store.put_bytes(ENDED_KEY, content.encode())
    if claim is not None and claim.pipeline_run == ours:
        run.store.delete(CLAIM_KEY)


def _ended(run: Run) -> list[str]:
    """Return the ids of pipeline runs whose report has been written; garbage names none."""
    try:
        found = unseal(parse_object(_bytes(run, ENDED_KEY) or b""), required=True)
        names = fields(found, {"pipeline_runs": list})["pipeline_runs"]
    except ValueError:
        return []
    return [name for name in names if isinstance(name, str)]


def _bytes(run: Run, key: str) -> bytes | None:
    try:
        return run.store.get_bytes(key)
    except ObjectNotFound:
        return None


def _read(run: Run) -> _Claim | None:
    """Return who has claimed the run; garbage claims nothing."""
    data = _bytes(run, CLAIM_KEY)
    try:
        found = fields(unseal(parse_object(data or b""), required=True), _FIELDS)
        since = datetime.fromtimestamp(found["since"], UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return _Claim(one_line(found["pipeline_run"]), since, found["recipe"])


def _refusal(run: Run, claim: _Claim, listed: list[str]) -> InUse:
    shown = "; ".join(listed[:_SHOWN])
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    since = claim.since.strftime("%Y-%m-%d %H:%M:%S UTC")
    return InUse(
        f"{run.store.uri} is in use by pipeline run {claim.pipeline_run} since {since} with "
        f"another recipe ({shown}{more}): choose another run_name, wait for its end, or end it by "
        f"`epg terminate {claim.pipeline_run}`; where it is gone for good, delete "
        f"{run.store.uri}/{CLAIM_KEY}"
    )

"""Stage `report`: one page of what a run left in its store. Cheap, and so made anew every time.

As the exit handler of the pipeline it also runs after a failure: whatever cannot be read is named
on the page instead of stopping it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from epg.runs.claim import release_recipe
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.findings import Findings, is_local
from epg.store.scratch import scratch_folder
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    from epg.report.facts import FinalStatus

PAGE = "report.html"

#: The server calls a group of steps that succeeded COMPLETE (2.17), the local runner SUCCEEDED.
_ENGINE_WORDS = {"COMPLETE": "SUCCEEDED", "CACHED": "SUCCEEDED"}


class EngineStatus(Protocol):
    """KFP's PipelineTaskFinalStatus, of which no more than this is read."""

    state: str | None
    error_message: str | None


def report(run: Run, status: EngineStatus | None = None) -> StageRecord:
    """Write `report/report.html` and the PNG grids from the stage records of a run.

    Args:
        run: the run; nothing of it needs to be done.
        status: what the engine says about the whole run, if it says anything.
    """
    from epg.report.page import render_page

    with scratch_folder("report-facts") as scratch:
        facts = Findings(run, scratch).gather(final_status(status))

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        page = render_page(facts).encode()
        outputs.put_bytes("report", PAGE, page)
        for name, png in facts.images.items():
            outputs.put_bytes(name, f"{name}.png", png)
        if is_local(run.store_uri):  # where a person looks first: runs/<run name>/report.html
            outputs.store.put_bytes(PAGE, page)
        for note in facts.notes:
            reporter.warning(note)

    inputs = {stage: record.fingerprint for stage, record in facts.records.items()}
    try:
        return perform(run, STAGES["report"], config={}, inputs=inputs, work=work, always=True)
    finally:  # as the last step of a pipeline run
        release_recipe(run)


report_component = Component(report, shows={"page": "report"})


def final_status(status: EngineStatus | None) -> FinalStatus | None:
    """Read what the engine says; nothing where it says nothing."""
    from epg.report.facts import FinalStatus

    if status is None or not status.state:
        return None
    return FinalStatus(_ENGINE_WORDS.get(status.state, status.state), status.error_message or "")

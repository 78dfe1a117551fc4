"""Stage `count-gflops`: parameters and compute from the recipe alone."""

from __future__ import annotations

from epg.evaluation.costs import costs
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.telemetry.progress import StageReporter

STAGE = STAGES["count-gflops"]


def count_gflops(run: Run) -> StageRecord:
    """Store the costs of the run's models."""
    config = {"costs": costs(run.recipe)}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        del reporter
        outputs.metrics.update(config["costs"])

    return perform(run, STAGE, config=config, inputs={}, work=work)


count_gflops_component = Component(count_gflops, measures="metrics")

"""Stage `count-gflops`: parameters and compute from the recipe alone.

The number of classes, where the recipe leaves it to the data, is that of the run's shards.
"""

from __future__ import annotations

from epg.evaluation.costs import costs
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, load_record
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.measured import with_measured
from epg.telemetry.progress import StageReporter

STAGE = STAGES["count-gflops"]


def count_gflops(run: Run) -> StageRecord:
    """Store the costs of the run's models."""
    sharded = load_record(run, "shard") is not None
    recipe = with_measured(run).recipe if sharded else run.recipe
    config = {"costs": costs(recipe.with_assumed_classes())}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        del reporter
        outputs.metrics.update(config["costs"])

    return perform(run, STAGE, config=config, inputs={}, work=work)


count_gflops_component = Component(count_gflops, measures="metrics")

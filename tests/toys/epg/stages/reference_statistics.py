from pathlib import Path

from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def reference_statistics_component(shards, statistics, metrics, recipe, overrides, store, run_name):
    assert Path(shards.path).read_text() == "toy"
    metrics.log_metric("num_images", 3.0)
    toy("reference-statistics", recipe, overrides, store, run_name, outputs=[statistics])

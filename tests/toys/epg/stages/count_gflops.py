from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def count_gflops_component(metrics, recipe, overrides, store, run_name):
    toy("count-gflops", recipe, overrides, store, run_name, metrics={"gmacs": 0.5})

from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def report_component(page, status, recipe, overrides, store, run_name):
    assert status.state in ("SUCCEEDED", "FAILED")
    toy("report", recipe, overrides, store, run_name, outputs=[page])

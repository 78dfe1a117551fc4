from epg.runs.entry import Component
from epg.stages.toy import toy


def report(run, status):
    assert status.state in ("SUCCEEDED", "FAILED")
    return toy(run, "report", outputs=("report",))


report_component = Component(report, shows={"page": "report"})

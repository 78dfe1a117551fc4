from epg.runs.entry import Component
from epg.stages.toy import toy


def count_gflops(run):
    return toy(run, "count-gflops", metrics={"gmacs": 0.5})


count_gflops_component = Component(count_gflops, measures="metrics")

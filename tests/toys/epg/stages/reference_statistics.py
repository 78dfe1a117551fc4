from epg.runs.entry import Component
from epg.stages.toy import is_toy, toy


def reference_statistics(run, shards):
    return toy(run, "reference-statistics", metrics={"num_images": 3})


reference_statistics_component = Component(
    reference_statistics,
    takes={"shards": is_toy},
    hands_over={"statistics": ()},
    measures="metrics",
)

from epg.runs.entry import Component
from epg.stages.toy import is_toy, toy


def pretrain(run, shards):
    return toy(run, "pretrain", outputs=("encoder", "projector", "curves"))


pretrain_component = Component(
    pretrain,
    takes={"shards": is_toy},
    hands_over={"encoder": ("encoder", "projector")},
    shows={"curves": "curves"},
    measures="metrics",
)

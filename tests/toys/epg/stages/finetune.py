from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.stages.toy import is_toy, toy


def finetune(run, objective, shards, encoder):
    assert set(encoder.objects) == {"encoder", "projector"}
    return toy(run, f"finetune-{objective}", outputs=("generator", "curves"))


finetune_component = Component(
    finetune,
    takes={"shards": is_toy, "encoder": HandOver.from_json},
    hands_over={"generator": ("generator",)},
    shows={"curves": "curves"},
    measures="metrics",
)

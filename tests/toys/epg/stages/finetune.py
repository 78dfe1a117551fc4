from pathlib import Path

from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def finetune_component(
    shards, encoder, generator, metrics, curves, objective, recipe, overrides, store, run_name
):
    assert Path(encoder.path).read_text() == "toy"
    stage = f"finetune-{objective}"
    toy(stage, recipe, overrides, store, run_name, outputs=[generator, curves])

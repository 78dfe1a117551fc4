from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def pretrain_component(shards, encoder, metrics, curves, recipe, overrides, store, run_name):
    toy("pretrain", recipe, overrides, store, run_name, outputs=[encoder, curves])

from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def shard_component(shards, recipe, overrides, store, run_name):
    toy("shard", recipe, overrides, store, run_name, outputs=[shards])

from epg.runs.entry import Component
from epg.stages.toy import toy


def shard(run, begin_at=""):
    return toy(run, "shard", outputs=("manifest",))


shard_component = Component(shard, shows={"shards": "manifest"})

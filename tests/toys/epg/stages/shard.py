from epg.runs.entry import Component
from epg.stages.changes import noted_contents, present_contents
from epg.stages.toy import toy
from epg.telemetry.progress import StageReporter


def shard(run, begin_at="", shard_parts=1):
    contents = present_contents(run, noted_contents(run), StageReporter("shard"))
    return toy(run, "shard", outputs=("manifest", "page"), inputs={"source": contents.digest})


shard_component = Component(shard, shows={"shards": "manifest", "page": "page"})

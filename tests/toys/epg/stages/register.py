from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.stages.toy import toy


def register(run, objective, generator):
    uri = f"{run.store_uri}/registry/digits-{objective}/1"
    found = {"model": f"digits-{objective}", "version": "1", "digest": "0" * 64, "uri": uri}
    return toy(run, f"register-{objective}", metrics=found)


register_component = Component(
    register, takes={"generator": HandOver.from_json}, follows=("metrics",), returns="uri"
)

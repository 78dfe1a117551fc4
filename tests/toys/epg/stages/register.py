from epg.runs.entry import stage_entry
from epg.stages.toy import toy


@stage_entry
def register_component(generator, metrics, objective, recipe, overrides, store, run_name):
    uri = f"{store}/registry/digits-{objective}/1"
    found = {"model": f"digits-{objective}", "version": "1", "digest": "0" * 64, "uri": uri}
    toy(f"register-{objective}", recipe, overrides, store, run_name, metrics=found)
    return uri

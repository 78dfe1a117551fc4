from epg.runs.entry import stage_entry
from epg.stages.toy import setting, toy


def check_bounds(recipe):
    """Toys are judged by nothing."""


@stage_entry
def gate_component(metrics, objective, recipe, overrides, store, run_name):
    assert metrics.metadata["svc_agreement"] == 0.95
    failed = setting("TOY_GATE_FAILS", objective)
    found = {"verdict": "fail", "reason": "svc_agreement is 0.2, below 0.85"}
    found = found if failed else {"verdict": "pass", "reason": ""}
    stage = f"gate-{objective}"
    return toy(stage, recipe, overrides, store, run_name, metrics=found).metrics["verdict"]

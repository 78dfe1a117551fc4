from epg.runs.entry import Component
from epg.stages.toy import setting, toy


def check_bounds(recipe):
    """Toys are judged by nothing."""


def gate(run, objective):
    failed = setting("TOY_GATE_FAILS", objective)
    found = {"verdict": "fail", "reason": "svc_agreement is 0.2, below 0.85"}
    found = found if failed else {"verdict": "pass", "reason": ""}
    return toy(run, f"gate-{objective}", metrics=found)


gate_component = Component(gate, follows=("metrics",), returns="verdict")

"""How a run ended, in words: the first thing that its report says."""

from __future__ import annotations

from dataclasses import dataclass

from epg.report.facts import (
    Failure,
    RunFacts,
    branch_state,
    next_stages,
    standing_failures,
)

TITLES = {"denoising": "Diffusion model", "consistency": "One-step consistency model"}
SHORT_TITLES = {"denoising": "Diffusion", "consistency": "One step"}


@dataclass(frozen=True)
class RunEnd:
    """The run's end: `kind` is succeeded, failed, stopped or unfinished (a CSS class, too)."""

    kind: str
    word: str
    sentence: str
    failures: list[Failure]
    advice: str = ""


def describe_end(facts: RunFacts) -> RunEnd:
    """Judge how the run ended from the engine's word, stored failures and missing records."""
    failures = standing_failures(facts)
    state = facts.status.state.upper() if facts.status else ""
    if failures or state in {"FAILED", "ERROR"}:
        return _failed(facts, failures)
    states = {objective: branch_state(facts, objective) for objective in facts.objectives}
    encoder_alone = bool(facts.record("pretrain")) and not set(states.values()) & {"done", "begun"}
    if state == "RUNNING" and encoder_alone:
        # Kubeflow's word for a run that was ended, and for one whose last branches nobody wanted.
        sentence = (
            "The encoder is trained. No generator was asked for, or the run was ended before."
        )
        return RunEnd("unfinished", "unfinished", sentence, [], _resume())
    if state and state != "SUCCEEDED":
        sentence = f"The run was ended before it was done{_where(facts)}."
        return RunEnd("stopped", "stopped", sentence, [], _resume())
    if state and encoder_alone:
        sentence = "The encoder is trained. No generator was asked for."
        return RunEnd("succeeded", "succeeded", sentence, [])
    wanted = [objective for objective, state in states.items() if state != "not wanted"]
    if wanted and all(states[objective] == "done" for objective in wanted):
        return RunEnd("succeeded", "succeeded", _verdicts(facts, wanted), [])
    sentence = f"Not every stage has a result yet{_where(facts)}."
    return RunEnd("unfinished", "unfinished", sentence, [], _resume())


def _failed(facts: RunFacts, failures: list[Failure]) -> RunEnd:
    if failures:
        stages = " and ".join(failure.stage for failure in failures)
        return RunEnd("failed", "failed", f"The run failed at {stages}.", failures, _resume())
    message = facts.status.message if facts.status else ""
    told = f" The engine says: {message}" if message else " No stage left a message."
    sentence = f"The run failed{_where(facts)}.{told}"
    advice = f"The log of that step tells why (on a cluster: epg status). {_resume()}"
    return RunEnd("failed", "failed", sentence, [], advice)


def _where(facts: RunFacts) -> str:
    absent = {o for o in facts.objectives if branch_state(facts, o) == "not wanted"}
    stages = [
        stage.name
        for stage in next_stages(facts)
        if stage.step != "count-gflops" and stage.objective not in absent
    ]
    return f": no result of {' and '.join(stages[:3])}" if stages else ""


def _resume() -> str:
    return (
        "Start the same command again: finished stages are kept, "
        "training goes on from its last checkpoint."
    )


def _verdicts(facts: RunFacts, wanted: list[str]) -> str:
    passed = [o for o in wanted if facts.metrics("gate", o).get("verdict") == "pass"]
    if len(passed) == len(wanted):
        if len(wanted) == 1:
            return f"The {TITLES[wanted[0]].lower()} passed its gate."
        return "Both models passed their gate."
    if not passed:
        return "The run is complete, but no model passed its gate; none was registered."
    failed = next(o for o in wanted if o not in passed)
    return (
        f"The {TITLES[passed[0]].lower()} passed its gate, the {TITLES[failed].lower()} "
        "did not and was not registered."
    )

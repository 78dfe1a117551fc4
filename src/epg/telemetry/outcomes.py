"""Pushing what a finished stage reached to a Prometheus Pushgateway; never a reason to fail.

| Variable | Default | Meaning |
|---|---|---|
| `EPG_PUSHGATEWAY` | empty | such as http://pushgateway.epg.svc:9091; empty = nothing is pushed |

A stage may end before anybody scrapes it, so it pushes its outcome once, at its end. A Pushgateway
forgets nothing: the grouping key is job, recipe and step, never a run, so that the next run of a
recipe takes the place of the one before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit

from epg import __version__
from epg.errors import one_line
from epg.measures import MEASURES, measured

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

VARIABLE = "EPG_PUSHGATEWAY"
JOB = "epg"
TIMEOUT = 5.0  # seconds, of connecting and of each answer

#: What a stage may tell of besides when and how long.
OutcomeKind = Literal["nothing", "shards", "costs", "training", "evaluation", "verdict"]
Series = Iterator[tuple[str, dict[str, str], Any]]  # name, labels, value


@dataclass(frozen=True)
class StageOutcome:
    """What is told of a stage that has just done its work.

    Attributes:
        kind: what its metrics are of.
        step: the stage, such as `evaluate-denoising`.
        recipe: name of the recipe.
        run: name of the run.
        metrics: those of the stage's record; what is no number or has no row in the table of
            metrics is left out.
        duration_seconds: how long it took.
        finished: when it ended (Unix time).
    """

    kind: OutcomeKind
    step: str
    recipe: str
    run: str
    metrics: Mapping[str, Any]
    duration_seconds: float
    finished: float


def push_outcome(
    outcome: StageOutcome,
    warn: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Push an outcome to the Pushgateway that `EPG_PUSHGATEWAY` names, if it names one.

    Args:
        outcome: of a stage whose record is stored.
        warn: told in one line why it was not pushed.
        environment: default: the process's.
    """
    env = os.environ if environment is None else environment
    address = env.get(VARIABLE, "").strip()
    if not address:
        return
    gateway = _checked(address)
    if gateway is None:  # not shown: it may hold a password
        warn(f"outcome not pushed: {VARIABLE} is no plain address, use http://HOST:PORT")
        return
    try:
        from prometheus_client import pushadd_to_gateway

        key = {"recipe": outcome.recipe, "step": outcome.step}
        pushadd_to_gateway(gateway, JOB, outcome_registry(outcome), key, timeout=TIMEOUT)
    except Exception as error:  # whatever it is, the work is done and its record stored
        warn(f"outcome not pushed to {gateway} ({_reason(error)}); see {VARIABLE}")


def outcome_registry(outcome: StageOutcome) -> CollectorRegistry:
    """Return the metrics of an outcome, without the labels of the grouping key."""
    from prometheus_client import CollectorRegistry, Gauge

    from epg.telemetry.metrics import METRICS

    registry = CollectorRegistry()
    rows = {metric.name: metric for metric in METRICS if metric.pushed}
    gauges: dict[str, Gauge] = {}
    for name, labels, value in _series(outcome):
        if name not in gauges:
            gauges[name] = Gauge(name, rows[name].help, rows[name].labels, registry=registry)
        gauge = gauges[name].labels(**labels) if labels else gauges[name]
        gauge.set(value if isinstance(value, int | float) else float("nan"))
    return registry


def _checked(address: str) -> str | None:
    """Return the URL of an address with or without a scheme; None when it is none."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number
        return None
    return url if good and not set("@?#") & set(url) else None


def _reason(error: Exception) -> str:
    """Say in one line what an exception says, and a Pushgateway that refuses."""
    cause = getattr(error, "reason", error)  # urllib wraps what it met
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    if isinstance(error, HTTPError):
        with contextlib.suppress(Exception):  # the answer may break off
            text += ": " + error.read(400).decode(errors="replace")
    return one_line(text)


def _series(outcome: StageOutcome) -> Series:
    yield "epg_step_last_success_timestamp_seconds", {}, outcome.finished
    yield "epg_step_duration_seconds", {}, outcome.duration_seconds
    # Push-add replaces all series of a name, so the info of the run before goes with its values.
    yield "epg_outcome_info", {"run": outcome.run, "version": __version__}, 1
    yield from _READERS[outcome.kind](outcome.metrics)


def _of_nothing(metrics: Mapping[str, Any]) -> Series:
    yield from ()


def _of_shards(metrics: Mapping[str, Any]) -> Series:
    for split in ("train", "held-out"):
        count = metrics.get(f"images_{split.replace('-', '_')}")
        yield "epg_shard_images", {"split": split}, count
    yield "epg_shard_images_skipped", {}, metrics.get("images_skipped")
    yield "epg_shard_bytes", {}, metrics.get("bytes")


def _of_costs(metrics: Mapping[str, Any]) -> Series:
    yield "epg_model_parameters", {}, metrics.get("parameters_generator")
    gflops = metrics.get("gflops")
    yield "epg_model_flops", {}, None if gflops is None else gflops * 1e9


def _of_training(metrics: Mapping[str, Any]) -> Series:
    from epg.telemetry.metrics import loss_terms

    for term, value in loss_terms(metrics).items():
        yield "epg_train_final_loss", {"term": term}, value


def _of_evaluation(metrics: Mapping[str, Any]) -> Series:
    """All of them: what was not measured is NaN, or push-add would leave the last run's number."""
    for measure in MEASURES:
        if not measure.of_model:
            labels = {"network": ""} if measure.shared else {}
            yield f"epg_eval_{measure.name}", labels, metrics.get(measure.name)
    for measure in measured(metrics):
        if measure.further:
            labels = {"network": measure.networks[0]}
            yield f"epg_eval_{measure.base}", labels, metrics[measure.name]


def _of_verdict(metrics: Mapping[str, Any]) -> Series:
    yield "epg_gate_passed", {}, int(metrics.get("verdict") == "pass")


_READERS: dict[OutcomeKind, Callable[[Mapping[str, Any]], Series]] = {
    "nothing": _of_nothing,
    "shards": _of_shards,
    "costs": _of_costs,
    "training": _of_training,
    "evaluation": _of_evaluation,
    "verdict": _of_verdict,
}

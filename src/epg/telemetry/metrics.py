"""The one table of metric names, and the object that a training stage tells its numbers to.

Names start with `epg_`, use base units, counters end in `_total`. Labels are few and bounded:
no run name, path or file name is one; only `epg_outcome_info`, of which a Pushgateway keeps one
series per recipe and step, names a run. `docs/metrics.md` is made from the table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from epg import __version__
from epg.measures import MEASURES, Measure

_LOSS = "loss_"


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        name: with prefix and unit.
        kind: `gauge` or `counter`.
        help: what it is.
        labels: its own; the scraper adds the pod's, a push its grouping key.
        pushed: pushed once by a stage at its end (`outcomes.py`), not served while it trains.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ("stage",)
    pushed: bool = False


def _outcome(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels, pushed=True)


def _figure(measure: Measure) -> Metric:
    """Return the row of a figure of `evaluate`; `network` is empty for the recipe's first."""
    labels = ("network",) if measure.shared else ()
    return _outcome(f"epg_eval_{measure.name}", f"{measure.meaning()}.", *labels)


METRICS: tuple[Metric, ...] = (
    Metric(
        "epg_train_loss",
        "gauge",
        "Loss at the last logged step, by term (`total` is the sum).",
        ("stage", "term"),
    ),
    Metric("epg_train_learning_rate", "gauge", "Learning rate of the optimizer."),
    Metric("epg_train_grad_norm", "gauge", "Norm of the gradient before it is clipped."),
    Metric("epg_train_step", "gauge", "Optimizer steps done."),
    Metric("epg_train_total_steps", "gauge", "Optimizer steps that the recipe asks for."),
    Metric("epg_train_samples_total", "counter", "Images trained on, repetitions counted."),
    Metric("epg_train_images_per_second", "gauge", "Images per second over the last seconds."),
    Metric("epg_data_wait_seconds_total", "counter", "Time for which training waited for data."),
    Metric(
        "epg_train_last_step_timestamp_seconds",
        "gauge",
        "When the last logged step ended (Unix time); `time()` minus it grows when training hangs.",
    ),
    Metric(
        "epg_checkpoint_last_success_timestamp_seconds",
        "gauge",
        "When the last checkpoint was complete in the store (Unix time); absent before the first.",
    ),
    Metric("epg_build_info", "gauge", "Always 1; its label is the version of epg.", ("version",)),
    _outcome(
        "epg_step_last_success_timestamp_seconds",
        "When the step last ended with a new result (Unix time).",
    ),
    _outcome("epg_step_duration_seconds", "How long the step took."),
    _outcome("epg_outcome_info", "Always 1; whose outcome this is.", "run", "version"),
    _outcome("epg_shard_images", "Images in the shards.", "split"),
    _outcome("epg_shard_images_skipped", "Images that could not be used and were left out."),
    _outcome("epg_shard_bytes", "Size of all shards."),
    _outcome("epg_model_parameters", "Parameters of the generator."),
    _outcome(
        "epg_model_flops",
        "Floating-point operations of one evaluation of the generator for one image; "
        "a multiply-accumulate is two.",
    ),
    _outcome(
        "epg_train_final_loss", "Loss at the last step, by term, as `epg_train_loss`.", "term"
    ),
    *(_figure(measure) for measure in MEASURES if not measure.of_model),
    _outcome("epg_gate_passed", "1: the model reaches what the recipe asks for; 0: it does not."),
)


def markdown_table(*, pushed: bool) -> str:
    """Return the metrics that are pushed, or those that are served, as a table in Markdown."""
    rows = [
        f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |"
        for m in METRICS
        if m.pushed == pushed
    ]
    return "\n".join(["| Metric | Type | Labels | Meaning |", "|---|---|---|---|", *rows]) + "\n"


def loss_terms(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return term -> value of the keys `loss` (term `total`) and `loss_<term>`."""
    terms = {key.removeprefix(_LOSS): row[key] for key in row if key.startswith(_LOSS)}
    return {"total": row["loss"], **terms} if "loss" in row else terms


class TrainingMetrics:
    """Numbers of one training stage, in a registry of its own for the exporter.

    Attributes:
        registry: what the exporter serves.
    """

    def __init__(self, stage: str, total_steps: int) -> None:
        """Prepare the metrics; series appear when they first have a value."""
        disable_created_metrics()  # they would double the number of series
        self.registry = CollectorRegistry()
        self._stage = stage
        self._counted: dict[str, float] = {}
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        for metric in METRICS:
            if metric.pushed:
                continue
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(
                    metric.name, metric.help, metric.labels, registry=self.registry
                )
            else:
                self._gauges[metric.name] = Gauge(
                    metric.name, metric.help, metric.labels, registry=self.registry
                )
        self._gauges["epg_build_info"].labels(version=__version__).set(1)
        self._set("epg_train_total_steps", total_steps)

    def update(
        self,
        *,
        row: Mapping[str, Any] | None = None,
        images_per_second: float | None = None,
        data_wait_seconds: float | None = None,
        checkpoint_time: float | None = None,
    ) -> None:
        """Take what is new; what is left out keeps its value.

        Args:
            row: a logged step: `step`, `images_seen`, `loss`, `loss_<term>`, `learning_rate`,
                `grad_norm`.
            images_per_second: throughput over the last seconds.
            data_wait_seconds: waited for data since the stage began, in all.
            checkpoint_time: Unix time at which a checkpoint was complete.
        """
        if row is not None:
            self._take_row(row)
        if images_per_second is not None:
            self._set("epg_train_images_per_second", images_per_second)
        if data_wait_seconds is not None:
            self._count_up_to("epg_data_wait_seconds_total", data_wait_seconds)
        if checkpoint_time is not None:
            self._set("epg_checkpoint_last_success_timestamp_seconds", checkpoint_time)

    def _take_row(self, row: Mapping[str, Any]) -> None:
        for term, value in loss_terms(row).items():
            self._gauges["epg_train_loss"].labels(self._stage, term).set(value)
        for key in ("step", "learning_rate", "grad_norm"):
            if key in row:
                self._set(f"epg_train_{key}", row[key])
        if "images_seen" in row:
            self._count_up_to("epg_train_samples_total", row["images_seen"])
        self._set("epg_train_last_step_timestamp_seconds", time.time())

    def _set(self, name: str, value: float) -> None:
        self._gauges[name].labels(self._stage).set(value)

    def _count_up_to(self, name: str, value: float) -> None:
        """Raise a counter to an absolute value; it never falls."""
        more = value - self._counted.get(name, 0.0)
        if more > 0:
            self._counters[name].labels(self._stage).inc(more)
            self._counted[name] = value

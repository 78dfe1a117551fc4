"""The one table of metric names, and the object that a training stage tells its numbers to.

Names start with `epg_`, use base units, counters end in `_total`. Labels are few and bounded:
no run name, path or file name is one. `docs/metrics.md` is made from the table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from epg import __version__

_LOSS = "loss_"


@dataclass(frozen=True)
class Metric:
    """One row of the table: name, `gauge` or `counter`, what it is, its labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ("stage",)


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
)


def markdown_table() -> str:
    """Return the table as Markdown, one row per metric."""
    rows = [
        f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |"
        for m in METRICS
    ]
    return "\n".join(["| Metric | Type | Labels | Meaning |", "|---|---|---|---|", *rows]) + "\n"


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
        for key, value in row.items():
            if key == "loss" or key.startswith(_LOSS):
                term = key.removeprefix(_LOSS) if key != "loss" else "total"
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

"""What the training stages share: the job, what is stored of it, and who hears about progress."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from epg.data.manifest import Manifest
from epg.runs.record import Outputs
from epg.runs.run import Run
from epg.store.held import Guard
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    from epg.training.job import Trained, TrainingJob
    from epg.training.loop import Watch


def training_job(
    run: Run,
    stage: str,
    outputs: Outputs,
    *,
    objective: str,
    manifest: Manifest,
    config: dict[str, Any],
    inputs: dict[str, str],
    headers: dict[str, dict[str, Any]],
    weights: dict[str, Path] | None = None,
) -> TrainingJob:
    """Describe the training of a run's stage; see `epg.training.job.TrainingJob`."""
    from epg.training.job import TrainingJob

    return TrainingJob(
        stage=stage,
        objective=objective,
        recipe=run.recipe,
        manifest=manifest,
        store=run.store.uri,
        config=config,
        inputs=inputs,
        weights=weights or {},
        headers=headers,
        scratch=outputs.scratch,
    )


@contextlib.contextmanager
def leading() -> Iterator[bool]:
    """Around a training stage: one process of those that train together does all but training.

    Yields:
        False in a process that only follows, which it has done to the end by then; True in the
        first one and where one is alone.
    """
    from epg.training.place import given_place

    place = given_place()
    if place is None:
        yield True
    elif place.leads:
        from epg.training.processes import dismiss

        try:
            yield True
        finally:
            dismiss(place)
    else:
        from epg.training.follow import main

        main()
        yield False


def train_stage(job: TrainingJob, reporter: StageReporter, outputs: Outputs) -> Trained:
    """Train to the end; store the weight files, the series and its curves.

    Args:
        job: the training.
        reporter: hears of progress.
        outputs: takes each weight file under its kind, `series` and `curves`.
    """
    from epg.training.launch import launch

    rates: list[float] = []
    with _watching(job.stage, job.optimizer.steps, reporter, outputs.store, rates) as watch:
        trained = launch(job, watch)
    _keep(trained, job.stage, outputs)
    if rates:
        outputs.details["pace"] = {"images_per_second": statistics.median(rates), **_machine()}
    last = trained.series[-1]
    outputs.metrics.update({k: v for k, v in last.items() if k != "learning_rate"})
    return trained


def keep_fresh(job: TrainingJob, reporter: StageReporter, outputs: Outputs) -> Trained:
    """Store a job's weights as its seed makes them, untrained; otherwise as `train_stage`."""
    from epg.training.fresh import fresh_weights

    reporter.message(f"{job.objective}.enabled is false: fresh weights, from scratch")
    trained = fresh_weights(job)
    _keep(trained, job.stage, outputs)
    outputs.metrics["step"] = 0
    return trained


def _machine() -> dict[str, Any]:
    """What trained: the GPU's name or `cpu`, and how many processes shared each batch."""
    import torch

    from epg.training.place import given_place

    place = given_place()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "processes": place.size if place is not None else 1}


def _keep(trained: Trained, stage: str, outputs: Outputs) -> None:
    from epg.report.curves import curves_html

    for kind, path in trained.files.items():
        outputs.put_file(kind, path)
    rows = "".join(json.dumps(row) + "\n" for row in trained.series)
    outputs.put_bytes("series", "series.jsonl", rows.encode())
    outputs.put_bytes("curves", "curves.html", curves_html(trained.series, title=stage).encode())


def drop_checkpoints(run: Run, stage: str) -> None:
    """Remove a stage's checkpoints: its result is stored and its record written."""
    run.store.clear(f"{stage}/checkpoints")


@contextlib.contextmanager
def _watching(
    stage: str, steps: int, reporter: StageReporter, guard: Guard, rates: list[float]
) -> Iterator[Watch]:
    """Progress to the reporter, numbers to Prometheus and to the live JSONL file.

    `rates` takes the images per second of every logged step.
    """
    from epg.telemetry.exporter import start_exporter
    from epg.telemetry.metrics import TrainingMetrics
    from epg.training.loop import Watch

    metrics = TrainingMetrics(stage=stage, total_steps=steps)
    exporter = start_exporter(metrics.registry, warn=reporter.warning)
    if exporter is not None:
        reporter.message(f"metrics at {exporter.url}")
    live = _live_file(stage)

    def write_row(row: dict[str, Any]) -> None:
        if live is not None:
            live.write(json.dumps(row) + "\n")
            live.flush()

    def measured(**values: Any) -> None:
        metrics.update(**values)
        if "images_per_second" in values:
            rates.append(values["images_per_second"])

    try:
        yield Watch(
            progress=lambda done, total, values: reporter.progress(
                done,
                total,
                "steps",
                **{k: v for k, v in values.items() if k != "data_wait_seconds"},
            ),
            row=write_row,
            measured=measured,
            message=reporter.message,
            warning=reporter.warning,
            guard=guard,
        )
    finally:
        if live is not None:
            live.close()
        if exporter is not None:
            exporter.close()


def _live_file(stage: str) -> TextIO | None:
    folder = os.environ.get("EPG_LOCAL_DIR")
    if not folder:
        return None
    path = Path(folder) / "live" / f"{stage}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")

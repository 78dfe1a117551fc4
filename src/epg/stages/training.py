"""What the training stages share: data, device, checkpoints, and who hears about progress."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.data.manifest import Manifest
from epg.runs.record import Outputs
from epg.runs.run import Run
from epg.store import Store
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.config.recipe import OptimizerConfig
    from epg.training.loop import Objective, Series, Watch


def checkpoint_store(run: Run, stage: str) -> Store:
    """Place of a training stage's checkpoints within its run."""
    return run.store.sub(f"{stage}/checkpoints")


def drop_checkpoints(run: Run, stage: str) -> None:
    """Remove a stage's checkpoints: its result is stored and its record written."""
    run.store.clear(f"{stage}/checkpoints")


def train_stage(
    run: Run,
    stage: str,
    *,
    reporter: StageReporter,
    outputs: Outputs,
    manifest: Manifest,
    optimizer: OptimizerConfig,
    config: dict[str, Any],
    inputs: dict[str, str],
    build: Callable[[torch.device], Objective],
) -> tuple[Objective, Series]:
    """Train one stage to its end and store its series and curves.

    Args:
        run: the run.
        stage: `pretrain`, `finetune-denoising` or `finetune-consistency`.
        reporter: hears of progress.
        outputs: takes `series` and `curves`.
        manifest: the shards.
        optimizer: the recipe's section of this stage.
        config: what checkpoints must have been made with.
        inputs: digests of what is read; checkpoints are bound to them too.
        build: makes the objective on a device.
    """
    from epg.model.device import prepare_device
    from epg.report.curves import curves_html
    from epg.training.checkpoints import Checkpoints
    from epg.training.loop import train
    from epg.training.world import World

    device = prepare_device()
    objective = build(device)
    checkpoints = Checkpoints(
        checkpoint_store(run, stage), config, inputs, outputs.scratch, warn=reporter.warning
    )
    with _watching(stage, optimizer, reporter) as watch:
        series = train(
            objective,
            optimizer,
            lambda start: _batches(run, manifest, optimizer.batch_size, stage, start, device),
            checkpoints,
            watch,
            World.single(),
        )
    rows = "".join(json.dumps(row) + "\n" for row in series)
    outputs.put_bytes("series", "series.jsonl", rows.encode())
    outputs.put_bytes("curves", "curves.html", curves_html(series, title=stage).encode())
    outputs.metrics.update({k: v for k, v in series[-1].items() if k != "learning_rate"})
    return objective, series


def _batches(
    run: Run, manifest: Manifest, batch_size: int, stage: str, start: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches on the device; the order depends on (seed, stage, step) alone."""
    import torch

    from epg.data.reader import ShardReader
    from epg.diffusion.seeds import derive_seed

    reader = ShardReader(run.store, manifest, "train")
    seed = derive_seed(run.recipe.seed, stage, "order")
    for batch in reader.batches(batch_size, seed=seed, start_step=start):
        images = torch.from_numpy(batch.images).to(device, non_blocking=True)
        yield images, torch.from_numpy(batch.labels).to(device, non_blocking=True)


@contextlib.contextmanager
def _watching(stage: str, optimizer: OptimizerConfig, reporter: StageReporter) -> Iterator[Watch]:
    """Progress to the reporter, numbers to Prometheus and to the live JSONL file."""
    from epg.telemetry.exporter import start_exporter
    from epg.telemetry.metrics import TrainingMetrics
    from epg.training.loop import Watch

    metrics = TrainingMetrics(stage=stage, total_steps=optimizer.steps)
    exporter = start_exporter(metrics.registry, warn=reporter.warning)
    if exporter is not None:
        reporter.message(f"metrics at {exporter.url}")
    live = _live_file(stage)

    def write_row(row: dict[str, Any]) -> None:
        if live is not None:
            live.write(json.dumps(row) + "\n")
            live.flush()

    try:
        yield Watch(
            progress=lambda done, total, values: reporter.progress(
                done,
                total,
                "steps",
                **{k: v for k, v in values.items() if k != "data_wait_seconds"},
            ),
            row=write_row,
            measured=metrics.update,
            message=reporter.message,
            warning=reporter.warning,
        )
    finally:
        if live is not None:
            live.close()
        if exporter is not None:
            exporter.close()


def _live_file(stage: str) -> Any:
    folder = os.environ.get("EPG_LOCAL_DIR")
    if not folder:
        return None
    path = Path(folder) / "live" / f"{stage}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")

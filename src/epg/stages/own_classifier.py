"""A run's own judge: a classifier trained on its training images, in minutes for small ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from epg.errors import UserError
from epg.runs.record import Outputs
from epg.runs.run import Run
from epg.store import ObjectNotFound
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.data.reader import ShardReader

_BATCH = 64


def own_classifier(
    run: Run,
    train: ShardReader,
    kept: str,
    reporter: StageReporter,
    outputs: Outputs,
    device: torch.device,
) -> Path:
    """Return the local weights file of the run's classifier, an output of the stage.

    Args:
        run: the run.
        train: its training images.
        kept: key of the run's store under which a process that was killed has left it; a name that
            says what it depends on.
        reporter: hears of progress.
        outputs: of the stage.
        device: where it is trained.
    """
    path = outputs.scratch / "classifier.safetensors"
    if not _fetched(run, kept, path):
        _train(run, train, path, outputs.stage, reporter, device)
        outputs.store.put_file(kept, path)
    outputs.put_file("classifier", path)
    return path


def _fetched(run: Run, kept: str, path: Path) -> bool:
    """Fetch what was trained before, where it is there and sound."""
    from epg.evaluation.features.classifier import load_classifier

    try:
        run.store.get_file(kept, path)
    except ObjectNotFound:
        return False
    try:
        load_classifier(path)
    except UserError:  # damaged
        return False
    return True


def _train(
    run: Run,
    train: ShardReader,
    path: Path,
    stage: str,
    reporter: StageReporter,
    device: torch.device,
) -> None:
    from epg.diffusion.seeds import derive_seed
    from epg.evaluation.features.classifier import (
        ClassifierShape,
        classifier_name,
        save_classifier,
        train_classifier,
    )

    data = run.recipe.data
    mean, std = data.normalisation
    shape = ClassifierShape(
        classifier_name(data.source),
        data.image_size,
        data.channels,
        data.class_count,
        list(mean),
        list(std),
    )
    batch = min(_BATCH, train.num_samples)
    steps = run.recipe.evaluate.classifier_epochs * max(1, train.num_samples // batch)
    reporter.message(f"training {shape.name} on {train.num_samples} images")
    model = train_classifier(
        shape,
        train.batches(batch, seed=run.recipe.seed),
        steps,
        seed=derive_seed(run.recipe.seed, stage),
        horizontal_flip=data.horizontal_flip,
        device=device,
        on_progress=lambda done, total, values: reporter.progress(done, total, "steps", **values),
    )
    save_classifier(path, model)

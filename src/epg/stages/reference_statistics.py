"""Stage `reference-statistics`: what real images that no model was trained on look like."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epg.data.manifest import Manifest
from epg.evaluation.checks import check_evaluation
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.inputs import stored_manifest
from epg.stages.settings import reference_config
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.data.reader import ShardReader

STAGE = STAGES["reference-statistics"]
#: Held-out features kept for precision and recall, as in the ADM suite.
MAX_REFERENCE_FEATURES = 10_000
_CLASSIFIER_BATCH = 64


def reference_statistics(run: Run, shards: Manifest | None = None) -> StageRecord:
    """Describe the held-out images; on the way, train the classifier that looks at them.

    Args:
        run: the run.
        shards: the manifest; default: the run's.

    Outputs: `statistics-<network>` (npz) for each of `evaluate.networks`, `neighbours` (npy: how
    far held-out images lie from the training images, float64 [N]), and `classifier` (safetensors)
    where the recipe asks for its own.
    """
    manifest = shards or stored_manifest(run)
    check_evaluation(run.recipe, manifest)

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        from epg.data.reader import ShardReader
        from epg.evaluation.neighbours import MAX_TRAINING_IMAGES
        from epg.model.device import prepare_device

        device = prepare_device()
        train = ShardReader(run.store, manifest, "train")
        held_out = ShardReader(run.store, manifest, "held-out")
        classifier = None
        if "classifier" in run.recipe.evaluate.networks:
            classifier = _train_classifier(run, train, reporter, outputs, device)
        _describe(run, held_out, classifier, reporter, outputs, device)
        _measure_neighbours(train, held_out, outputs, device)
        outputs.metrics["num_images"] = held_out.num_samples
        outputs.details["split"] = "held-out"
        outputs.details["compared_training_images"] = min(train.num_samples, MAX_TRAINING_IMAGES)

    return perform(
        run,
        STAGE,
        config=reference_config(run.recipe),
        inputs={"shards": manifest.sha256},
        work=work,
    )


def _train_classifier(
    run: Run,
    train: ShardReader,
    reporter: StageReporter,
    outputs: Outputs,
    device: torch.device,
) -> Path:
    from epg.diffusion.seeds import derive_seed
    from epg.evaluation.features.classifier import (
        ClassifierShape,
        classifier_name,
        save_classifier,
        train_classifier,
    )

    data = run.recipe.data
    shape = ClassifierShape(
        classifier_name(data.source),
        data.image_size,
        data.channels,
        data.num_classes,
        list(data.mean),
        list(data.std),
    )
    batch = min(_CLASSIFIER_BATCH, train.num_samples)
    steps = run.recipe.evaluate.classifier_epochs * max(1, train.num_samples // batch)
    seed = derive_seed(run.recipe.seed, STAGE.name)
    reporter.message(f"training {shape.name} on {train.num_samples} images")
    model = train_classifier(
        shape,
        train.batches(batch, seed=run.recipe.seed),
        steps,
        seed=seed,
        horizontal_flip=data.horizontal_flip,
        device=device,
        on_progress=lambda done, total, values: reporter.progress(done, total, "steps", **values),
    )
    path = outputs.scratch / "classifier.safetensors"
    save_classifier(path, model)
    outputs.put_file("classifier", path)
    return path


def _describe(
    run: Run,
    held_out: ShardReader,
    classifier: Path | None,
    reporter: StageReporter,
    outputs: Outputs,
    device: torch.device,
) -> None:
    """Look at the held-out images once, through every network of the recipe."""
    from epg.evaluation.features.describing import describe
    from epg.evaluation.features.networks import open_network
    from epg.evaluation.reading import once

    kinds = run.recipe.evaluate.networks
    networks = {kind: open_network(kind, classifier, device) for kind in kinds}
    labels: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for batch, classes in once(held_out):
            labels.append(classes)
            yield batch

    found = describe(
        list(networks.values()),
        images(),
        device=device,
        keep=MAX_REFERENCE_FEATURES,
        on_batch=lambda seen: reporter.progress(seen, held_out.num_samples, "images"),
    )
    for (kind, network), description in zip(networks.items(), found, strict=True):
        name = f"statistics-{kind}"
        outputs.put_bytes(name, f"{name}.npz", description.to_npz())
        outputs.metrics |= network.quality(description, np.concatenate(labels))
    outputs.details["feature_network"] = networks[kinds[0]].name
    outputs.details["feature_networks"] = {kind: n.name for kind, n in networks.items()}


def _measure_neighbours(
    train: ShardReader, held_out: ShardReader, outputs: Outputs, device: torch.device
) -> None:
    """How far do real images that were not trained on lie from the training images?"""
    from epg.evaluation.neighbours import MAX_QUERIES, distances_to_training
    from epg.evaluation.reading import once

    queries = np.concatenate([images for images, _ in once(held_out, MAX_QUERIES)])
    nearest = distances_to_training(queries, train, device)
    buffer = io.BytesIO()
    np.save(buffer, nearest)
    outputs.put_bytes("neighbours", "neighbours.npy", buffer.getvalue())
    outputs.metrics["median_nearest_neighbour"] = float(np.median(nearest))


reference_statistics_component = Component(
    reference_statistics,
    takes={"shards": Manifest.from_json},
    hands_over={"statistics": ()},
    measures="metrics",
)

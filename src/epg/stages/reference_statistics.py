"""Stage `reference-statistics`: the real images that generated ones are compared with."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epg.data.manifest import Manifest
from epg.evaluation.checks import check_evaluation
from epg.protocol import Reference
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.inputs import stored_manifest
from epg.stages.measured import with_measured
from epg.stages.settings import reference_config
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from epg.data.reader import ShardReader
    from epg.evaluation.features.base import Description, FeatureNetwork

STAGE = STAGES["reference-statistics"]
#: Features of real images kept for precision and recall, as in the ADM suite.
MAX_REFERENCE_FEATURES = 10_000
_CLASSIFIER_BATCH = 64


def reference_statistics(run: Run, shards: Manifest | None = None) -> StageRecord:
    """Describe real images; on the way, train the classifier that looks at them.

    They are those of `evaluate.reference`: held out, or trained on as in papers.

    Args:
        run: the run.
        shards: the manifest; default: the run's.

    Outputs: `statistics-<network>` (npz) for each of `evaluate.networks`, `neighbours` (npy: how
    far held-out images lie from the training images, float64 [N]), and `classifier` (safetensors)
    where the recipe asks for its own.
    """
    manifest = shards or stored_manifest(run)
    run = with_measured(run, manifest)
    check_evaluation(run.recipe, manifest, run.store_uri)

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        from epg.data.reader import ShardReader
        from epg.evaluation.metrics.copies import MAX_TRAINING_IMAGES
        from epg.model.device import prepare_device

        device = prepare_device()
        train = ShardReader(run.store, manifest, "train")
        held_out = ShardReader(run.store, manifest, "held-out")
        classifier = None
        if "classifier" in run.recipe.evaluate.networks:
            classifier = _train_classifier(run, train, reporter, outputs, device)
        splits = {"train": train, "held-out": held_out}
        _Describing(run, splits, classifier, reporter, outputs, device).work()
        _measure_neighbours(train, held_out, outputs, device)
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
    mean, std = data.normalisation
    shape = ClassifierShape(
        classifier_name(data.source),
        data.image_size,
        data.channels,
        data.class_count,
        list(mean),
        list(std),
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


@dataclass(frozen=True)
class _Describing:
    """Looks at the reference once, through every network of the recipe."""

    run: Run
    splits: Mapping[str, ShardReader]
    classifier: Path | None
    reporter: StageReporter
    outputs: Outputs
    device: torch.device

    def work(self) -> None:
        """Store each network's statistics, and what a judge of our own is worth."""
        from epg.evaluation.features.networks import open_networks

        settings, outputs = self.run.recipe.evaluate, self.outputs
        split, manifest = settings.reference, self.splits["train"].manifest
        networks = open_networks(
            settings.networks,
            self.classifier,
            self.device,
            root=self.run.store_uri,
            scratch=outputs.scratch,
        )
        found, labels = self._look(networks, split)
        for kind, description in found.items():
            name = f"statistics-{kind}"
            outputs.put_bytes(name, f"{name}.npz", description.to_npz())
        self._quality(networks, found, labels, split)
        count = self.splits[split].num_samples
        reference = Reference(split, count, manifest.sha256, manifest.source)
        outputs.metrics["num_images"] = count
        outputs.details["split"] = split
        outputs.details["references"] = {kind: asdict(reference) for kind in networks}
        names = {kind: network.name for kind, network in networks.items()}
        outputs.details["feature_network"] = next(iter(names.values()))
        outputs.details["feature_networks"] = names

    def _look(
        self, networks: Mapping[str, FeatureNetwork], split: str
    ) -> tuple[dict[str, Description], NDArray[np.int64]]:
        """Return what networks see in a split, and its labels in the same order."""
        from epg.evaluation.features.describing import describe
        from epg.evaluation.reading import once

        reader = self.splits[split]
        labels: list[NDArray[np.int64]] = []

        def images() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
            for batch, classes in once(reader):
                labels.append(classes)
                yield batch, classes

        found = describe(
            list(networks.values()),
            images(),
            device=self.device,
            keep=MAX_REFERENCE_FEATURES,
            on_batch=lambda seen: self.reporter.progress(seen, reader.num_samples, "images"),
        )
        return dict(zip(networks, found, strict=True)), np.concatenate(labels)

    def _quality(
        self,
        networks: Mapping[str, FeatureNetwork],
        found: dict[str, Description],
        labels: NDArray[np.int64],
        split: str,
    ) -> None:
        """Try judges of our own on images that they were not trained on."""
        if split != "held-out" and "classifier" in networks:
            judge = {"classifier": networks["classifier"]}
            found, labels = self._look(judge, "held-out")
        for kind, description in found.items():
            self.outputs.metrics |= networks[kind].quality(description, labels)


def _measure_neighbours(
    train: ShardReader, held_out: ShardReader, outputs: Outputs, device: torch.device
) -> None:
    """How far do real images that were not trained on lie from the training images?"""
    from epg.evaluation.metrics.copies import MAX_QUERIES, nearest_in_training
    from epg.evaluation.reading import once

    queries = np.concatenate([images for images, _ in once(held_out, MAX_QUERIES)])
    nearest = nearest_in_training(queries, train, device).distances
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

"""Stage `reference-statistics`: the real images that generated ones are compared with."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epg.data.manifest import Manifest
from epg.evaluation.checks import check_evaluation
from epg.evaluation.features.weights import WEIGHTS
from epg.evaluation.reference_place import find_reference
from epg.protocol import REFERENCE_FEATURES, Reference
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fingerprint
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.inputs import stored_manifest
from epg.stages.known import VERSION, KnownStatistics, statistics_of
from epg.stages.looks import RealTask, given_task
from epg.stages.measured import with_measured
from epg.stages.own_classifier import own_classifier
from epg.stages.settings import reference_config
from epg.stages.shares import look
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from epg.data.reader import ShardReader
    from epg.evaluation.features.base import Description, FeatureNetwork, Statistics
    from epg.evaluation.sources import Images

STAGE = STAGES["reference-statistics"]


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
        done = f"{STAGE.name}/parts/{fingerprint(STAGE.name, config, inputs)[:16]}"
        classifier = None
        if "classifier" in run.recipe.evaluate.networks:
            kept = f"{done}/classifier.safetensors"
            classifier = own_classifier(run, train, kept, reporter, outputs, device)
        splits = {"train": train, "held-out": held_out}
        _Describing(run, splits, classifier, done, reporter, outputs, device).work()
        _measure_neighbours(train, held_out, outputs, device)
        outputs.details["compared_training_images"] = min(train.num_samples, MAX_TRAINING_IMAGES)
        outputs.store.clear(done)

    inputs = {"shards": manifest.sha256}
    if run.recipe.evaluate.reference_file is not None:
        place = find_reference(run.recipe.evaluate.reference_file, run.store_uri)
        inputs["reference_file"] = place.sha256
    config = reference_config(run.recipe)
    return perform(run, STAGE, config=config, inputs=inputs, work=work)


@dataclass(frozen=True)
class _Describing:
    """Looks at the reference once, through every network of the recipe."""

    run: Run
    splits: Mapping[str, ShardReader]
    classifier: Path | None
    done: str  # folder of the store for what is done so far
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
        # A network need not see a million images where a file or an earlier run tells of them.
        shared = KnownStatistics(self.run.store_uri, split, manifest.sha256, networks)
        known = shared.find(set(networks) & set(WEIGHTS), outputs.scratch, self.reporter)
        told = {*known, "inception"} if self._has_file else {*known}
        needed = {kind: network for kind, network in networks.items() if kind not in told}
        found, labels = self._look(needed, split) if needed else ({}, np.zeros(0, np.int64))
        statistics: dict[str, Statistics] = {**known, **found}
        for kind in set(found) & set(WEIGHTS):
            shared.keep(kind, found[kind])
        from_file = self._from_file(networks, statistics)
        for kind, one in statistics.items():
            name = f"statistics-{kind}"
            outputs.put_bytes(name, f"{name}.npz", one.to_npz(networks[kind]))
        self._quality(networks, found, labels, split)
        count = self.splits[split].num_samples
        own = Reference(split, count, manifest.sha256, manifest.source)
        references = {**dict.fromkeys(networks, own), **from_file}
        outputs.metrics["num_images"] = count
        outputs.details["split"] = split
        outputs.details["references"] = {k: asdict(r) for k, r in references.items()}
        names = {kind: network.name for kind, network in networks.items()}
        outputs.details["feature_network"] = next(iter(names.values()))
        outputs.details["feature_networks"] = names

    @property
    def _has_file(self) -> bool:
        return self.run.recipe.evaluate.reference_file is not None

    def _from_file(
        self, networks: Mapping[str, FeatureNetwork], statistics: dict[str, Statistics]
    ) -> dict[str, Reference]:
        """Put the recipe's file in Inception's place; return how a protocol calls it."""
        from epg.evaluation.reference_file import read_reference

        recipe, root = self.run.recipe, self.run.store_uri
        if recipe.evaluate.reference_file is None:
            return {}
        path = find_reference(recipe.evaluate.reference_file, root).local(self.outputs.scratch)
        data = recipe.data
        judges = {"inception": networks["inception"]}
        shape = (data.image_size, data.image_size, data.channels)
        read = read_reference(path, judges, shape, partial(self._given, judges), device=self.device)
        statistics |= read.statistics
        return {"inception": read.reference}

    def _given(
        self, networks: Mapping[str, FeatureNetwork], images: Images
    ) -> dict[str, Statistics]:
        """Return what networks see in the images of the recipe's file; they look as in `_look`."""

        def looked(needed: Mapping[str, FeatureNetwork]) -> dict[str, Description]:
            task = given_task(
                images,
                needed,
                root=self.run.store_uri,
                run_name=self.run.name,
                parts=self._parts("file", needed),
                keep=REFERENCE_FEATURES,
            )
            source = task.source(self.device, images)
            return look(task, source, needed, self.outputs.store, self.reporter).found

        return statistics_of(
            images,
            networks,
            looked,
            root=self.run.store_uri,
            scratch=self.outputs.scratch,
            reporter=self.reporter,
        )

    def _parts(self, of: str, networks: Mapping[str, FeatureNetwork]) -> str:
        """Return the folder for what networks have seen so far."""
        judges = {kind: network.weights_digest for kind, network in networks.items()}
        facts = json.dumps([of, judges, REFERENCE_FEATURES, VERSION])
        return f"{self.done}/{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def _look(
        self, networks: Mapping[str, FeatureNetwork], split: str
    ) -> tuple[dict[str, Description], NDArray[np.int64]]:
        """Return what networks see in a split, and its labels in the same order.

        Several processes share it, and one that was killed is followed by one that goes on.
        """
        from epg.evaluation.reading import READ_BATCH, SplitImages

        reader = self.splits[split]
        manifest = self.outputs.scratch / "manifest.json"
        manifest.write_bytes(reader.manifest.to_json())
        task = RealTask(
            root=self.run.store_uri,
            run_name=self.run.name,
            parts=self._parts(split, networks),
            count=reader.num_samples,
            span=READ_BATCH,
            networks=list(networks),
            classifier=str(self.classifier or ""),
            keep=REFERENCE_FEATURES,
            manifest=str(manifest),
            split=split,
        )
        source = SplitImages(reader, self.device)
        whole = look(task, source, networks, self.outputs.store, self.reporter)
        return whole.found, whole.labels

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

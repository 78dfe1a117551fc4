"""Stage `evaluate`: generate images and judge them against real ones that no model has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epg.data.manifest import Manifest
from epg.documents import without_nan, written
from epg.evaluation.checks import check_evaluation
from epg.evaluation.costs import costs
from epg.protocol import FACTS, HASHES, FeatureSpace, Protocol, Reference
from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fingerprint, require_record
from epg.runs.run import Run
from epg.stages.catalog import find_stage
from epg.stages.inputs import (
    stored_classifier,
    stored_manifest,
    stored_output,
    stored_statistics,
)
from epg.stages.looks import generated_task
from epg.stages.measured import with_measured
from epg.stages.settings import evaluation_config
from epg.stages.shares import look
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from epg.config.sampling import SamplingConfig
    from epg.evaluation.features.base import FeatureNetwork, Statistics
    from epg.evaluation.generate import GeneratedImages
    from epg.evaluation.parts import Pictures, Whole
    from epg.model.files import LoadedGenerator

_STRIP_IMAGES = 10
_STRIP_FRAMES = 8
_GRID_COLUMNS = 10


def evaluate(
    run: Run,
    objective: str,
    shards: Manifest | None = None,
    generator: HandOver | None = None,
    statistics: HandOver | None = None,
) -> StageRecord:
    """Judge one generator.

    Args:
        run: the run.
        objective: `denoising` or `consistency`.
        shards: the manifest; default: the run's.
        generator: where the weights lie; default: as the run's record says.
        statistics: where the reference statistics lie; likewise.

    Outputs: `metrics` (JSON), `samples` (npz: `arr_0` uint8 [N, H, W, C], `arr_1` labels),
    `grid` and `trajectory` (PNG), `grid_page` (the grid as a page of its own).
    """
    stage = find_stage("evaluate", objective)
    manifest = shards or stored_manifest(run)
    run = with_measured(run, manifest)
    check_evaluation(run.recipe, manifest, run.store_uri)
    reference = require_record(run, "reference-statistics")
    statistics = statistics or HandOver.of(run, reference)
    weights = generator or stored_output(run, f"finetune-{objective}")
    judged = getattr(run.recipe, objective).judged
    inputs = {
        "shards": manifest.sha256,
        "generator": weights.sha256(judged),
        **{name: stored.sha256 for name, stored in statistics.objects.items()},
    }

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        path = weights.fetch(run.store, judged, outputs.scratch / "generator.safetensors")
        parts = f"{stage.name}/parts/{fingerprint(stage.name, config, inputs)[:16]}"
        _Evaluation(run, objective, manifest, statistics, reference, parts, reporter, outputs).work(
            path
        )

    config = evaluation_config(run.recipe, objective)
    return perform(run, stage, config=config, inputs=inputs, work=work)


@dataclass
class _Evaluation:
    """One evaluation at work: what it reads, and where its results go."""

    run: Run
    objective: str
    manifest: Manifest
    statistics: HandOver
    reference: StageRecord
    parts: str  # folder of the store for what was seen so far
    reporter: StageReporter
    outputs: Outputs

    def work(self, weights: Path) -> None:
        """Generate, draw, judge; metrics go to the record and to `metrics.json`."""
        from epg.model.device import prepare_device

        device, scratch = prepare_device(), self.outputs.scratch
        task = generated_task(
            self.run,
            self._sampling,
            parts=self.parts,
            generator=weights,
            classifier=stored_classifier(self.run, self.statistics, scratch),
            count=self.run.recipe.evaluate.num_samples,
            seed=self.run.recipe.seed,
            pictures=True,
        )
        source = task.source(device)
        networks = task.open_networks(scratch, device)
        loaded = source.loaded
        real = stored_statistics(self.run, self.statistics, networks, scratch)
        judged = next(iter(real.values()))
        whole = look(task, source, networks, self.outputs.store, self.reporter, real=judged)
        self._count(source, whole)
        self._draw(loaded, whole.pictures, source.labels)
        self._draw_ends(whole.pictures, source.labels)
        self._judge_features(networks, real, whole, source.labels, device)
        self._judge_pixels(whole.pictures, source.labels, device)
        metrics, details = self.outputs.metrics, self.outputs.details
        metrics["parameters"] = sum(p.numel() for p in loaded.generator.parameters())
        metrics["gmacs"] = float(costs(self.run.recipe)["gmacs"])
        details["device"] = str(device)
        protocol = self._protocol(networks)
        details[FACTS], details[HASHES] = protocol.facts(), protocol.hashes(metrics)
        self._write_metrics()

    @property
    def _sampling(self) -> SamplingConfig:
        """The recipe's as it is now; the file remembers what it was trained with."""
        return self.run.recipe.sampling(self.objective)

    def _count(self, source: GeneratedImages, whole: Whole) -> None:
        count = len(source.labels)
        self.outputs.metrics["nfe"] = round(whole.facts["nfe"] / count)
        self.outputs.metrics["images_per_second"] = count / max(whole.facts["seconds"], 1e-9)
        self.outputs.metrics["num_samples"] = count

    def _draw(self, loaded: LoadedGenerator, pictures: Pictures, labels: NDArray[np.int64]) -> None:
        from epg.evaluation.generate import trajectory
        from epg.evaluation.grid import class_grid, grid_html, trajectory_strip
        from epg.evaluation.labels import drawn_labels

        shown = labels[: len(pictures.first)]
        path = self.outputs.scratch / "samples.npz"
        np.savez(path, pictures.first, shown)
        self.outputs.put_file("samples", path)
        grid = class_grid(pictures.first, shown, per_class=_GRID_COLUMNS)
        self.outputs.put_bytes("grid", "grid.png", grid)
        title = f"{self.run.recipe.name}: {self.objective}, one row per class"
        self.outputs.put_bytes("grid_page", "grid.html", grid_html(grid, title).encode())
        seed, classes = self.run.recipe.seed, len(loaded.classes)
        way = trajectory(
            loaded,
            drawn_labels("balanced", min(_STRIP_IMAGES, classes), classes, seed),
            seed=seed,
            frames=_STRIP_FRAMES,
            sampling=self._sampling,
        )
        self.outputs.put_bytes("trajectory", "trajectory.png", trajectory_strip(way))

    def _draw_ends(self, pictures: Pictures, labels: NDArray[np.int64]) -> None:
        """Show the images that the judge is least and most sure of; only a classifier is."""
        from epg.evaluation.grid import rows_sheet

        shown = min(_GRID_COLUMNS, len(pictures.ranked) // 2)
        if not shown:
            return
        ends = [slice(0, shown), slice(-shown, None)]
        sheet = rows_sheet([pictures.ranked[end] for end in ends])
        self.outputs.put_bytes("judged", "judged.png", sheet)
        for name, end in zip(("least_certain", "most_certain"), ends, strict=True):
            index, sure = pictures.ranked_index[end], pictures.ranked_confidence[end]
            self.outputs.details[name] = [
                {"image": int(i), "class": int(labels[i]), "probability": math.exp(float(c))}
                for i, c in zip(index, sure, strict=True)
            ]

    def _judge_features(
        self,
        networks: Mapping[str, FeatureNetwork],
        real: Mapping[str, Statistics],
        whole: Whole,
        labels: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        """Compare with real images in the features of every network of the recipe."""
        from epg.evaluation.judging import Judging

        metrics, details = self.outputs.metrics, self.outputs.details
        judging = Judging(
            self.run.recipe.evaluate,
            networks,
            self.run.recipe.seed,
            device,
            lambda done, total: self.reporter.progress(done, total, "distances"),
        )
        verdicts = judging.figures(real, whole.found, labels)
        metrics |= verdicts.metrics
        details |= verdicts.details
        of_itself = self.reference.metrics  # the judges' own quality on real images
        for network in networks.values():
            metrics |= {key: of_itself[key] for key in network.figures if key in of_itself}
        names = {kind: network.name for kind, network in networks.items()}
        details["feature_network"], details["feature_networks"] = next(iter(names.values())), names
        for warning in verdicts.warnings:
            self.reporter.warning(warning)
        if verdicts.warnings:
            details["warnings"] = verdicts.warnings

    def _protocol(self, networks: Mapping[str, FeatureNetwork]) -> Protocol:
        settings, manifest = self.run.recipe.evaluate, self.manifest
        told = self.reference.details["references"]
        spaces = {k: FeatureSpace(n.name, n.weights_digest) for k, n in networks.items()}
        references = {kind: Reference(**told[kind]) for kind in networks}
        train = Reference("train", manifest.num_samples("train"), manifest.sha256, manifest.source)
        return Protocol(
            spaces,
            {**references, "": train},
            settings.num_samples,
            settings.labels,
            settings.neighbours,
            settings.svc.model_dump() if settings.svc is not None else None,
        )

    def _judge_pixels(
        self, pictures: Pictures, labels: NDArray[np.int64], device: torch.device
    ) -> None:
        """Are they copies of training images, and what does an independent judge see in them?"""
        from epg.data.arrays import read_npy
        from epg.data.reader import ShardReader
        from epg.evaluation.grid import rows_sheet
        from epg.evaluation.judge import agreement, svc_predictions
        from epg.evaluation.metrics.copies import (
            MAX_QUERIES,
            nearest_in_training,
            nearest_neighbour_ratio,
        )

        train = ShardReader(self.run.store, self.manifest, "train")
        queries = pictures.first[:MAX_QUERIES]
        nearest = nearest_in_training(queries, train, device, shown=_GRID_COLUMNS)
        pairs = rows_sheet([queries[: len(nearest.images)], nearest.images])
        self.outputs.put_bytes("copies", "copies.png", pairs)
        path = self.outputs.scratch / "neighbours.npy"
        held_out = read_npy(self.statistics.fetch(self.run.store, "neighbours", path).read_bytes())
        ratio = nearest_neighbour_ratio(nearest.distances, held_out)
        self.outputs.metrics["nearest_neighbour_ratio"] = ratio
        svc = self.run.recipe.evaluate.svc
        if svc is not None:
            predicted = svc_predictions(
                *train.load(),
                pictures.first,
                gamma=svc.gamma,
                penalty=svc.C,
                pixel_max=svc.pixel_max,
                most=svc.train_images,
            )
            asked = labels[: len(predicted)]
            seen = agreement(predicted, asked, len(self.manifest.classes))
            self.outputs.metrics["svc_agreement"] = seen.overall
            self.outputs.details["svc_agreement_by_class"] = seen.by_class

    def _write_metrics(self) -> None:
        """Write `metrics.json`, which travels with a registered model."""
        content = {
            "objective": self.objective,
            "metrics": without_nan(self.outputs.metrics),
            "details": self.outputs.details,
        }
        self.outputs.put_bytes("metrics", "metrics.json", written(content))


evaluate_component = Component(
    evaluate,
    takes={
        "shards": Manifest.from_json,
        "generator": HandOver.from_json,
        "statistics": HandOver.from_json,
    },
    shows={"grid": "grid_page"},
    measures="metrics",
)

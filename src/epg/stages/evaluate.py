"""Stage `evaluate`: generate images and judge them against real ones that no model has seen."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epg.data.manifest import Manifest
from epg.evaluation.checks import check_evaluation
from epg.evaluation.costs import costs
from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, require_record
from epg.runs.run import Run
from epg.stages.catalog import find_stage
from epg.stages.inputs import stored_manifest, stored_output
from epg.stages.settings import evaluation_config
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.config.sampling import SamplingConfig
    from epg.data.reader import ShardReader
    from epg.evaluation.features.base import Statistics
    from epg.evaluation.generate import Samples
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
    check_evaluation(run.recipe, manifest)
    reference = require_record(run, "reference-statistics")
    statistics = statistics or HandOver.of(run, reference)
    weights = generator or stored_output(run, f"finetune-{objective}")
    inputs = {
        "shards": manifest.sha256,
        "generator": weights.sha256("generator"),
        **{name: stored.sha256 for name, stored in statistics.objects.items()},
    }

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        path = weights.fetch(run.store, "generator", outputs.scratch / "generator.safetensors")
        judged = reference.metrics  # the judges' own quality on real images
        _Evaluation(run, objective, manifest, statistics, judged, reporter, outputs).work(path)

    return perform(
        run,
        stage,
        config=evaluation_config(run.recipe, objective),
        inputs=inputs,
        work=work,
    )


def balanced_labels(count: int, num_classes: int) -> np.ndarray:
    """Return labels int64 [N] that go round the classes: 0, 1, …, K - 1, 0, 1, and so on."""
    return np.arange(count, dtype=np.int64) % num_classes


@dataclass
class _Evaluation:
    """One evaluation at work: what it reads, and where its results go."""

    run: Run
    objective: str
    manifest: Manifest
    statistics: HandOver
    judged: Mapping[str, Any]
    reporter: StageReporter
    outputs: Outputs

    def work(self, weights: Path) -> None:
        """Generate, draw, judge; metrics go to the record and to `metrics.json`."""
        from epg.data.reader import ShardReader
        from epg.model.device import prepare_device
        from epg.model.files import load_generator

        device = prepare_device()
        loaded = load_generator(weights)
        samples = self._generate(loaded)
        self._draw(loaded, samples)
        train = ShardReader(self.run.store, self.manifest, "train")
        self._judge_features(samples, device)
        self._judge_pixels(samples, train, device)
        self.outputs.metrics["parameters"] = sum(p.numel() for p in loaded.generator.parameters())
        self.outputs.metrics["gmacs"] = float(costs(self.run.recipe)["gmacs"])
        self.outputs.details["device"] = str(device)
        self._write_metrics()

    @property
    def _sampling(self) -> SamplingConfig:
        """The recipe's as it is now; the file remembers what it was trained with."""
        return self.run.recipe.sampling(self.objective)

    def _generate(self, loaded: LoadedGenerator) -> Samples:
        from epg.evaluation.generate import generate

        settings = self.run.recipe.evaluate
        samples = generate(
            loaded,
            balanced_labels(settings.num_samples, len(loaded.classes)),
            seed=self.run.recipe.seed,
            batch_size=settings.batch_size,
            sampling=self._sampling,
            on_progress=lambda done, total, values: self.reporter.progress(
                done, total, "images", **values
            ),
        )
        self.outputs.metrics["nfe"] = samples.nfe
        self.outputs.metrics["images_per_second"] = samples.images_per_second
        self.outputs.metrics["num_samples"] = len(samples.images)
        return samples

    def _draw(self, loaded: LoadedGenerator, samples: Samples) -> None:
        from epg.evaluation.generate import trajectory
        from epg.evaluation.grid import class_grid, grid_html, trajectory_strip

        path = self.outputs.scratch / "samples.npz"
        np.savez(path, samples.images, samples.labels)
        self.outputs.put_file("samples", path)
        grid = class_grid(samples.images, samples.labels, per_class=_GRID_COLUMNS)
        self.outputs.put_bytes("grid", "grid.png", grid)
        title = f"{self.run.recipe.name}: {self.objective}, one row per class"
        self.outputs.put_bytes("grid_page", "grid.html", grid_html(grid, title).encode())
        labels = balanced_labels(min(_STRIP_IMAGES, len(loaded.classes)), len(loaded.classes))
        way = trajectory(
            loaded,
            labels,
            seed=self.run.recipe.seed,
            frames=_STRIP_FRAMES,
            sampling=self._sampling,
        )
        self.outputs.put_bytes("trajectory", "trajectory.png", trajectory_strip(way))

    def _judge_features(self, samples: Samples, device: torch.device) -> None:
        """Compare with the held-out images in the features of every network of the recipe."""
        from epg.evaluation.features.base import Statistics
        from epg.evaluation.features.describing import describe
        from epg.evaluation.features.networks import open_network

        metrics, details = self.outputs.metrics, self.outputs.details
        kinds = self.run.recipe.evaluate.networks
        classifier = None
        if "classifier" in kinds:
            classifier = self._fetch("classifier", "classifier.safetensors")
        networks = {kind: open_network(kind, classifier, device) for kind in kinds}
        found = describe(list(networks.values()), self._batches(samples), device=device)
        for (kind, network), description in zip(networks.items(), found, strict=True):
            name = f"statistics-{kind}"
            real = Statistics.from_npz(self._fetch(name, f"{name}.npz"))
            figures = network.compare(real, description, samples.labels)
            metrics |= figures.metrics
            details |= figures.details
            of_itself = self.judged
            metrics |= {key: of_itself[key] for key in network.figures if key in of_itself}
            suffix = "" if kind == kinds[0] else f"_{kind}"
            metrics |= self._precision_recall(real, description, suffix, device)
        details["feature_network"] = networks[kinds[0]].name
        details["feature_networks"] = {kind: network.name for kind, network in networks.items()}

    def _precision_recall(
        self, real: Statistics, found: Statistics, suffix: str, device: torch.device
    ) -> dict[str, float]:
        """Those of the recipe's first network bear the plain names."""
        import torch

        from epg.evaluation.neighbours import precision_recall

        precision, recall = precision_recall(
            torch.from_numpy(real.features).to(device),
            torch.from_numpy(found.features).to(device),
            self.run.recipe.evaluate.neighbours,
        )
        return {f"precision{suffix}": precision, f"recall{suffix}": recall}

    def _batches(self, samples: Samples) -> Iterator[np.ndarray]:
        size = self.run.recipe.evaluate.batch_size
        for start in range(0, len(samples.images), size):
            yield samples.images[start : start + size]

    def _fetch(self, name: str, filename: str) -> Path:
        """Copy an output of the reference statistics."""
        return self.statistics.fetch(self.run.store, name, self.outputs.scratch / filename)

    def _judge_pixels(self, samples: Samples, train: ShardReader, device: torch.device) -> None:
        """Are they copies of training images, and what does an independent judge see in them?"""
        from epg.data.arrays import read_npy
        from epg.evaluation.judge import agreement, svc_predictions
        from epg.evaluation.neighbours import (
            MAX_QUERIES,
            distances_to_training,
            nearest_neighbour_ratio,
        )

        nearest = distances_to_training(samples.images[:MAX_QUERIES], train, device)
        held_out = read_npy(self._fetch("neighbours", "neighbours.npy").read_bytes())
        ratio = nearest_neighbour_ratio(nearest, held_out)
        self.outputs.metrics["nearest_neighbour_ratio"] = ratio
        svc = self.run.recipe.evaluate.svc
        if svc is not None:
            predicted = svc_predictions(
                *train.load(),
                samples.images,
                gamma=svc.gamma,
                penalty=svc.C,
                pixel_max=svc.pixel_max,
            )
            seen = agreement(predicted, samples.labels, len(self.manifest.classes))
            self.outputs.metrics["svc_agreement"] = seen.overall
            self.outputs.details["svc_agreement_by_class"] = seen.by_class

    def _write_metrics(self) -> None:
        """Write `metrics.json`: strict JSON, in which a number that is none is null."""
        metrics = {
            name: value if math.isfinite(value) else None
            for name, value in self.outputs.metrics.items()
        }
        content = {
            "objective": self.objective,
            "metrics": metrics,
            "details": self.outputs.details,
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        self.outputs.put_bytes("metrics", "metrics.json", text.encode())


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

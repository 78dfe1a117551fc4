"""Stage `evaluate`: generate images and judge them against real ones that no model has seen."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epg.data.manifest import Manifest
from epg.runs.entry import open_run, stage_entry
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fetch_output, file_sha256, require_record
from epg.runs.run import Run
from epg.stages.catalog import find_stage
from epg.stages.count_gflops import costs
from epg.stages.inputs import stored_generator, stored_manifest
from epg.stages.reference_statistics import (
    MAX_QUERIES,
    check_features,
    check_neighbours,
    distances_to_training,
    load_network,
)
from epg.stages.settings import evaluation_config
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.config.sampling import SamplingConfig
    from epg.data.reader import ShardReader
    from epg.evaluation.features import Description
    from epg.evaluation.generate import Samples
    from epg.model.files import LoadedGenerator

_STRIP_IMAGES = 10
_STRIP_FRAMES = 8
_GRID_COLUMNS = 10


def evaluate(
    run: Run, objective: str, manifest: Manifest | None = None, generator: Path | None = None
) -> StageRecord:
    """Judge one generator.

    Args:
        run: the run.
        objective: `denoising` or `consistency`.
        manifest: the shards; default: the run's.
        generator: weights (safetensors); default: the run's.

    Outputs: `metrics` (JSON), `samples` (npz: `arr_0` uint8 [N, H, W, C], `arr_1` labels),
    `grid` and `trajectory` (PNG).
    """
    stage = find_stage("evaluate", objective)
    manifest = manifest or stored_manifest(run)
    check_features(run)
    check_neighbours(run, manifest)
    reference = require_record(run, "reference-statistics")
    with tempfile.TemporaryDirectory(prefix="epg-generator-") as scratch:
        weights = generator or stored_generator(run, objective, Path(scratch))
        inputs = {
            "shards": manifest.sha256,
            "generator": file_sha256(weights),
            **{name: entry["sha256"] for name, entry in reference.outputs.items()},
        }

        def work(reporter: StageReporter, outputs: Outputs) -> None:
            _Evaluation(run, objective, manifest, reference, reporter, outputs).work(weights)

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
    reference: StageRecord
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
        from epg.evaluation.grid import class_grid, trajectory_strip

        path = self.outputs.scratch / "samples.npz"
        np.savez(path, samples.images, samples.labels)
        self.outputs.put_file("samples", path)
        grid = class_grid(samples.images, samples.labels, per_class=_GRID_COLUMNS)
        self.outputs.put_bytes("grid", "grid.png", grid)
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
        """Compare with the held-out images in the features of the recipe's network."""
        import torch

        from epg.evaluation.features import describe
        from epg.evaluation.neighbours import precision_recall

        settings, scratch = self.run.recipe.evaluate, self.outputs.scratch
        classifier = None
        if settings.features == "classifier":
            path = scratch / "classifier.safetensors"
            classifier = fetch_output(self.run, self.reference, "classifier", path)
        name, network = load_network(self.run, classifier, device)
        statistics = fetch_output(
            self.run, self.reference, "statistics", scratch / "statistics.npz"
        )
        found = describe(network, self._batches(samples), device=device)
        with np.load(statistics, allow_pickle=False) as file:
            reference = {key: file[key] for key in file.files}
        self._distances(found, reference)
        precision, recall = precision_recall(
            torch.from_numpy(reference["features"]).to(device),
            torch.from_numpy(found.features).to(device),
            settings.neighbours,
        )
        self.outputs.metrics |= {"precision": precision, "recall": recall}
        self.outputs.details["feature_network"] = name
        if classifier is not None:
            accuracy = self.reference.metrics["classifier_held_out_accuracy"]
            self.outputs.metrics["classifier_held_out_accuracy"] = accuracy
            self._agreement("class", found.logits.argmax(1), samples)

    def _batches(self, samples: Samples) -> Iterator[np.ndarray]:
        size = self.run.recipe.evaluate.batch_size
        for start in range(0, len(samples.images), size):
            yield samples.images[start : start + size]

    def _distances(self, found: Description, reference: dict[str, np.ndarray]) -> None:
        """Only Inception's distance is called FID."""
        from epg.evaluation.frechet import Moments, frechet_distance, inception_score

        count = int(reference["count"])
        kept = reference["features"] if len(reference["features"]) == count else None
        real = Moments(reference["mu"], reference["sigma"], count, kept)
        distance = frechet_distance(real, found.moments)
        if self.run.recipe.evaluate.features == "classifier":
            self.outputs.metrics["frechet_distance"] = distance
            return
        assert found.spatial is not None
        spatial = Moments(reference["mu_s"], reference["sigma_s"], count)
        self.outputs.metrics |= {
            "fid": distance,
            "sfid": frechet_distance(spatial, found.spatial),
            "inception_score": inception_score(found.logits),
        }

    def _judge_pixels(self, samples: Samples, train: ShardReader, device: torch.device) -> None:
        """Are they copies of training images, and what does an independent judge see in them?"""
        from epg.evaluation.judge import svc_predictions
        from epg.evaluation.neighbours import nearest_neighbour_ratio

        nearest = distances_to_training(samples.images[:MAX_QUERIES], train, device)
        with np.load(self.outputs.scratch / "statistics.npz", allow_pickle=False) as file:
            held_out = file["nearest_held_out"]
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
            self._agreement("svc", predicted, samples)

    def _agreement(self, judge: str, predicted: np.ndarray, samples: Samples) -> None:
        from epg.evaluation.judge import agreement

        found = agreement(predicted, samples.labels, len(self.manifest.classes))
        self.outputs.metrics[f"{judge}_agreement"] = found.overall
        self.outputs.details[f"{judge}_agreement_by_class"] = found.by_class

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


@stage_entry
def evaluate_component(
    shards: Any,
    statistics: Any,
    generator: Any,
    metrics: Any,
    grid: Any,
    objective: str,
    recipe: str,
    overrides: dict[str, Any],
    store: str,
    run_name: str,
) -> None:
    """Run the stage inside a pipeline: `grid` becomes an HTML page.

    `statistics` orders the steps; its file is read from the store, beside the classifier's.
    """
    from epg.evaluation.grid import grid_html

    del statistics
    run = open_run(recipe, overrides, store, run_name)
    manifest = Manifest.from_json(Path(shards.path).read_bytes())
    record = evaluate(run, objective, manifest, Path(generator.path))
    with tempfile.TemporaryDirectory(prefix="epg-grid-") as scratch:
        png = fetch_output(run, record, "grid", Path(scratch) / "grid.png").read_bytes()
    title = f"{run.recipe.name}: {objective}, one row per class"
    Path(grid.path).write_text(grid_html(png, title), encoding="utf-8")
    # Kubeflow keeps six decimals of a metric: the strings keep them all.
    exact = {name: repr(value) for name, value in record.metrics.items()}
    metrics.metadata["epg"] = json.dumps(exact)
    for name, value in record.metrics.items():
        if math.isfinite(value):
            metrics.log_metric(name, float(value))

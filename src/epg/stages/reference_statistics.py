"""Stage `reference-statistics`: what real images that no model was trained on look like."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epg.data.manifest import Manifest
from epg.errors import UserError
from epg.runs.entry import open_run, stage_entry
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord, fetch_output
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.inputs import stored_manifest
from epg.stages.settings import reference_config
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

    from epg.data.reader import ShardReader
    from epg.evaluation.features import Description, Network

STAGE = STAGES["reference-statistics"]
#: Held-out features kept for precision and recall, as in the ADM suite.
MAX_REFERENCE_FEATURES = 10_000
#: Images whose nearest training image is looked for, and training images that are looked through.
MAX_QUERIES = 1000
MAX_TRAINING_IMAGES = 100_000
_CLASSIFIER_BATCH = 64
_READ_BATCH = 512


def reference_statistics(run: Run, manifest: Manifest | None = None) -> StageRecord:
    """Describe the held-out images; on the way, train the classifier that looks at them.

    Args:
        run: the run.
        manifest: the shards; default: the run's.

    Outputs: `statistics` (npz), and `classifier` (safetensors) where the recipe's features are
    its own.
    """
    manifest = manifest or stored_manifest(run)
    check_features(run)
    check_neighbours(run, manifest)

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        from epg.data.reader import ShardReader
        from epg.model.device import prepare_device

        device = prepare_device()
        train = ShardReader(run.store, manifest, "train")
        held_out = ShardReader(run.store, manifest, "held-out")
        if run.recipe.evaluate.features == "classifier":
            _train_classifier(run, train, reporter, outputs, device)
            name, network = load_network(run, outputs.scratch / "classifier.safetensors", device)
        else:
            name, network = load_network(run, None, device)
        description = _describe(network, held_out, device, reporter)
        if run.recipe.evaluate.features == "classifier":
            labels = np.concatenate([labels for _, labels in once(held_out)])
            outputs.metrics["classifier_held_out_accuracy"] = float(
                (description.logits.argmax(1) == labels).mean()
            )
        queries = first_images(held_out, MAX_QUERIES)
        nearest = distances_to_training(queries, train, device)
        outputs.put_bytes("statistics", "statistics.npz", _pack(description, nearest))
        outputs.metrics["num_images"] = held_out.num_samples
        outputs.metrics["median_nearest_neighbour"] = float(np.median(nearest))
        outputs.details["feature_network"] = name
        outputs.details["split"] = "held-out"
        outputs.details["compared_training_images"] = min(train.num_samples, MAX_TRAINING_IMAGES)

    return perform(
        run,
        STAGE,
        config=reference_config(run.recipe),
        inputs={"shards": manifest.sha256},
        work=work,
    )


def check_features(run: Run) -> None:
    """Refuse FID without the right Inception weights, before anything long starts."""
    if run.recipe.evaluate.features == "inception":
        from epg.evaluation.inception_weights import require_inception_weights

        require_inception_weights()


def check_neighbours(run: Run, manifest: Manifest) -> None:
    """Refuse a number of neighbours that one of the two sets does not have."""
    evaluate, held_out = run.recipe.evaluate, manifest.num_samples("held-out")
    least = min(evaluate.num_samples, held_out)
    if evaluate.neighbours >= least:
        raise UserError(
            f"evaluate.neighbours is {evaluate.neighbours}: it must be below the number of images "
            f"compared (evaluate.num_samples is {evaluate.num_samples}, the held-out split has "
            f"{held_out})"
        )


def load_network(run: Run, classifier: Path | None, device: torch.device) -> tuple[str, Network]:
    """Return the feature network that the recipe asks for, and its name."""
    if run.recipe.evaluate.features == "classifier":
        from epg.evaluation.classifier import load_classifier

        assert classifier is not None
        model = load_classifier(classifier, device)
        return model.shape.name, model.describe
    from epg.evaluation import inception

    return inception.NAME, inception.load_inception(device=device)


def once(reader: ShardReader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every image of a split once, with its label, always in the same order.

    Splits that do not fit memory are streamed.
    """
    left = reader.num_samples
    for batch in reader.batches(min(_READ_BATCH, left), seed=0):
        yield batch.images[:left], batch.labels[:left]
        left -= len(batch.images)
        if left <= 0:
            return


def first_images(reader: ShardReader, count: int) -> np.ndarray:
    """Return up to `count` images uint8 [N, H, W, C], evenly mixed over the split."""
    batches = itertools.islice(once(reader), -(-count // _READ_BATCH))
    return np.concatenate([images for images, _ in batches])[:count]


def distances_to_training(
    queries: np.ndarray, train: ShardReader, device: torch.device
) -> np.ndarray:
    """Distance in pixels of every query to its nearest training image: float64 [N].

    Of large splits the same `MAX_TRAINING_IMAGES` are looked through every time.
    """
    from epg.evaluation.neighbours import nearest_distances

    batches = itertools.islice(once(train), -(-MAX_TRAINING_IMAGES // _READ_BATCH))
    return nearest_distances(queries, (images for images, _ in batches), device)


def _train_classifier(
    run: Run,
    train: ShardReader,
    reporter: StageReporter,
    outputs: Outputs,
    device: torch.device,
) -> None:
    from epg.diffusion.seeds import derive_seed
    from epg.evaluation.classifier import (
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


def _describe(
    network: Network, held_out: ShardReader, device: torch.device, reporter: StageReporter
) -> Description:
    from epg.evaluation.features import describe

    return describe(
        network,
        (images for images, _ in once(held_out)),
        device=device,
        keep=MAX_REFERENCE_FEATURES,
        on_batch=lambda seen: reporter.progress(seen, held_out.num_samples, "images"),
    )


def _pack(description: Description, nearest: np.ndarray) -> bytes:
    moments, spatial = description.moments, description.spatial
    arrays = {
        "mu": moments.mean,
        "sigma": moments.covariance,
        "count": np.array(moments.count),
        "features": description.features,
        "nearest_held_out": nearest,
    }
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@stage_entry
def reference_statistics_component(
    shards: Any,
    statistics: Any,
    metrics: Any,
    recipe: str,
    overrides: dict[str, Any],
    store: str,
    run_name: str,
) -> None:
    """Run the stage inside a pipeline: `statistics` becomes the npz file."""
    run = open_run(recipe, overrides, store, run_name)
    record = reference_statistics(run, Manifest.from_json(Path(shards.path).read_bytes()))
    fetch_output(run, record, "statistics", Path(statistics.path))
    statistics.metadata["epg"] = json.dumps({**record.outputs["statistics"], **record.details})
    for name, value in record.metrics.items():
        metrics.log_metric(name, float(value))

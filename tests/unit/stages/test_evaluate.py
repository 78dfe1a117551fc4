"""`reference-statistics` and `evaluate` on real digits and an untrained generator."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from epg.errors import UserError
from epg.evaluation.inception_weights import WEIGHTS_URL
from epg.measures import MEASURES
from epg.model.files import save_weights
from epg.model.generator import Generator
from epg.runs.record import StageRecord, fetch_output
from epg.runs.run import Run
from epg.stages.evaluate import balanced_labels, evaluate, evaluate_component
from epg.stages.inputs import stored_manifest
from epg.stages.reference_statistics import (
    reference_statistics,
    reference_statistics_component,
)
from epg.stages.shard import shard

SMALL = {
    "evaluate.num_samples": 40,
    "evaluate.batch_size": 16,
    "evaluate.classifier_epochs": 1,
    "denoising.sampling_steps": 2,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def run(root) -> Run:
    run = Run.open("smoke", SMALL, str(root), "a-run")
    shard(run)
    return run


@pytest.fixture(scope="module")
def reference(run) -> StageRecord:
    return reference_statistics(run)


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    arguments = run.recipe.generator_arguments()
    header = {
        "kind": "generator",
        "objective": "denoising",
        "classes": stored_manifest(run).classes,
        "generator_arguments": arguments,
        "recipe": run.recipe.model_dump(mode="json"),
    }
    save_weights(path, Generator(**arguments).state_dict(), header)
    return path


@pytest.fixture(scope="module")
def evaluated(run, reference, weights) -> StageRecord:
    return evaluate(run, "denoising", generator=weights)


def output(run: Run, record: StageRecord, name: str) -> bytes:
    return run.store.get_bytes(record.outputs[name]["key"])


def test_reference_describes_the_held_out_images(run, reference):
    manifest = stored_manifest(run)
    with np.load(io.BytesIO(output(run, reference, "statistics")), allow_pickle=False) as file:
        statistics = {key: file[key] for key in file.files}
    assert statistics["count"] == manifest.num_samples("held-out")
    assert reference.metrics["num_images"] == manifest.num_samples("held-out")
    features = statistics["features"].astype(np.float64)
    np.testing.assert_allclose(statistics["mu"], features.mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics["sigma"], np.cov(features, rowvar=False), atol=1e-6)
    assert (statistics["nearest_held_out"] > 0).all()
    assert reference.details["feature_network"] == "digits-cnn"
    assert reference.metrics["classifier_held_out_accuracy"] > 0.5


def test_metrics_are_the_promised_ones(evaluated):
    inception = {"fid", "sfid", "inception_score"}
    assert set(evaluated.metrics) == {measure.name for measure in MEASURES} - inception
    assert all(math.isfinite(value) for value in evaluated.metrics.values())
    assert evaluated.metrics["num_samples"] == 40
    assert evaluated.metrics["frechet_distance"] > 0
    assert evaluated.details["feature_network"] == "digits-cnn"
    assert len(evaluated.details["svc_agreement_by_class"]) == 10


def test_metrics_file_is_strict_json(run, evaluated):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(output(run, evaluated, "metrics"), parse_constant=refuse)
    assert content["metrics"] == evaluated.metrics
    assert content["objective"] == "denoising"


def test_samples_are_class_balanced_and_pictures_open(run, evaluated):
    with np.load(io.BytesIO(output(run, evaluated, "samples")), allow_pickle=False) as file:
        assert file["arr_0"].shape == (40, 8, 8, 1)
        assert file["arr_0"].dtype == np.uint8
        assert np.bincount(file["arr_1"]).tolist() == [4] * 10
    for name in ("grid", "trajectory"):
        Image.open(io.BytesIO(output(run, evaluated, name))).verify()


def test_same_generator_is_judged_once(run, evaluated, weights, reference):
    assert evaluate(run, "denoising", generator=weights) == evaluated
    assert reference_statistics(run) == reference


def test_another_sampler_is_another_evaluation(root, evaluated, weights):
    other = Run.open("smoke", SMALL | {"denoising.sampling_steps": 4}, str(root), "a-run")
    record = evaluate(other, "denoising", generator=weights)
    assert record.metrics["nfe"] > evaluated.metrics["nfe"]  # not what the weights' file says


class Artifact(SimpleNamespace):
    def log_metric(self, name: str, value: float) -> None:
        assert type(value) is float
        self.metadata[name] = value


def artifact(path: Path) -> Artifact:
    return Artifact(path=str(path), metadata={})


def test_components_fill_their_artifacts(root, run, evaluated, reference, weights, tmp_path):
    common = {"recipe": "smoke", "overrides": SMALL, "store": str(root), "run_name": "a-run"}
    shards = artifact(tmp_path / "manifest.json")
    Path(shards.path).write_bytes(stored_manifest(run).to_json())
    statistics, metrics = artifact(tmp_path / "statistics"), artifact(tmp_path / "metrics")
    reference_statistics_component(shards=shards, statistics=statistics, metrics=metrics, **common)
    assert Path(statistics.path).read_bytes() == output(run, reference, "statistics")
    assert isinstance(statistics.metadata["epg"], str)
    assert metrics.metadata["num_images"] == float(reference.metrics["num_images"])

    metrics, grid = artifact(tmp_path / "metrics"), artifact(tmp_path / "grid.html")
    evaluate_component(
        shards=shards,
        statistics=statistics,
        generator=artifact(weights),
        metrics=metrics,
        grid=grid,
        objective="denoising",
        **common,
    )
    assert "data:image/png;base64," in Path(grid.path).read_text()
    exact = json.loads(metrics.metadata["epg"])
    name = "frechet_distance"
    assert float(exact[name]) == metrics.metadata[name] == evaluated.metrics[name]
    assert not Path(metrics.path).exists()


def test_bad_settings_are_refused_before_work(root, run, reference, weights):
    few = Run.open("smoke", SMALL | {"evaluate.num_samples": 3}, str(root), "a-run")
    with pytest.raises(UserError, match=r"evaluate\.neighbours is 3: it must be below"):
        evaluate(few, "denoising", generator=weights)
    fid = Run.open("smoke", SMALL | {"evaluate.features": "inception"}, str(root), "a-run")
    for stage in (reference_statistics, lambda run: evaluate(run, "denoising", None, weights)):
        with pytest.raises(UserError) as caught:
            stage(fid)
        assert WEIGHTS_URL in str(caught.value)
    with pytest.raises(UserError, match="objective 'gan'"):
        evaluate(run, "gan")


def test_fid_with_weights_comes_from_the_same_stages(root, run, weights, monkeypatch):
    """A cheap network takes the place of the real one, whose weights cannot travel with tests."""
    from epg.evaluation import inception, inception_weights
    from epg.evaluation.features import Features

    def network(images: torch.Tensor) -> Features:
        x = images.flatten(1).float() / 255
        return Features(x[:, 10:40], x[:, 20:30], x[:, :25])

    monkeypatch.setattr(inception_weights, "require_inception_weights", lambda: None)
    monkeypatch.setattr(inception, "load_inception", lambda device: network)
    settings = SMALL | {"evaluate.features": "inception", "evaluate.svc": None}
    fid = Run.open("smoke", settings, str(root), "fid-run")
    shard(fid)
    reference = reference_statistics(fid)
    assert set(reference.outputs) == {"statistics"}
    record = evaluate(fid, "denoising", generator=weights)
    absent = {"frechet_distance", "class_agreement", "svc_agreement"}
    absent.add("classifier_held_out_accuracy")
    assert set(record.metrics) == {measure.name for measure in MEASURES} - absent
    assert record.metrics["fid"] > 0
    assert record.details["feature_network"] == "inception-2015-12-05"


def test_labels_go_round_the_classes():
    assert balanced_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert balanced_labels(7, 3).dtype == np.int64


def test_altered_statistics_are_not_used(run, reference, tmp_path):
    key = reference.outputs["statistics"]["key"]
    good = run.store.get_bytes(key)
    run.store.put_bytes(key, good[:-1] + b"x")
    try:
        with pytest.raises(UserError, match="SHA-256"):
            fetch_output(run, reference, "statistics", tmp_path / "statistics.npz")
    finally:
        run.store.put_bytes(key, good)

"""`reference-statistics` and `evaluate` on real digits and an untrained generator."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from epg import children
from epg.errors import UserError
from epg.evaluation import looking
from epg.evaluation.features.base import Features
from epg.evaluation.features.weights import WEIGHTS, Found
from epg.evaluation.generate import GeneratedImages
from epg.evaluation.labels import drawn_labels, labels_rule
from epg.evaluation.parts import Part, StoredParts
from epg.measures import FIGURES, MEASURES
from epg.model.files import save_weights
from epg.model.generator import Generator
from epg.protocol import FACTS, HASHES
from epg.runs.handover import HandOver, fetch_output
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.evaluate import evaluate, evaluate_component
from epg.stages.inputs import stored_manifest
from epg.stages.reference_statistics import (
    reference_statistics,
    reference_statistics_component,
)
from epg.stages.shard import shard
from tests.toys.handed import artifact, hand_over

SMALL = {
    "evaluate.num_samples": 40,
    "evaluate.few": True,
    "evaluate.batch_size": 16,
    "evaluate.classifier_epochs": 1,
    "denoising.sampling_steps": 2,
}
ALL = {measure.name for measure in MEASURES} - {"fid_infinity", "frechet_distance_dinov2"}
FID = {"fid", "sfid", "kid", "inception_score"}
OWN = {"frechet_distance", "class_agreement", "classifier_held_out_accuracy"}


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
def weights_file(run, tmp_path_factory) -> Path:
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
def weights(run, weights_file) -> HandOver:
    return hand_over(run, "finetune-denoising", generator=weights_file)


@pytest.fixture(scope="module")
def evaluated(run, reference, weights) -> StageRecord:
    return evaluate(run, "denoising", generator=weights)


def output(run: Run, record: StageRecord, name: str) -> bytes:
    return run.store.get_bytes(record.outputs[name]["key"])


def test_reference_describes_the_held_out_images(run, reference):
    manifest = stored_manifest(run)
    packed = output(run, reference, "statistics-classifier")
    with np.load(io.BytesIO(packed), allow_pickle=False) as file:
        statistics = {key: file[key] for key in file.files}
    assert statistics["count"] == manifest.num_samples("held-out")
    assert reference.metrics["num_images"] == manifest.num_samples("held-out")
    features = statistics["features"].astype(np.float64)
    np.testing.assert_allclose(statistics["mu"], features.mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics["sigma"], np.cov(features, rowvar=False), atol=1e-6)
    nearest = np.load(io.BytesIO(output(run, reference, "neighbours")), allow_pickle=False)
    assert nearest.shape == (manifest.num_samples("held-out"),)
    assert (nearest > 0).all()
    assert reference.metrics["median_nearest_neighbour"] == np.median(nearest)
    assert reference.details["feature_network"] == "digits-cnn"
    assert reference.metrics["classifier_held_out_accuracy"] > 0.5


def test_metrics_are_the_promised_ones(evaluated):
    assert set(evaluated.metrics) == ALL - FID
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
    page = output(run, evaluated, "grid_page").decode()
    assert "smoke: denoising, one row per class" in page
    assert base64.b64encode(output(run, evaluated, "grid")).decode() in page


def test_same_generator_is_judged_once(run, evaluated, weights, reference):
    assert evaluate(run, "denoising", generator=weights) == evaluated
    assert reference_statistics(run) == reference


def test_another_sampler_is_another_evaluation(root, evaluated, weights):
    other = Run.open("smoke", SMALL | {"denoising.sampling_steps": 4}, str(root), "a-run")
    record = evaluate(other, "denoising", generator=weights)
    assert record.metrics["nfe"] > evaluated.metrics["nfe"]  # not what the weights' file says


def test_components_fill_their_artifacts(root, run, evaluated, reference, weights, tmp_path):
    common: dict[str, Any] = {
        "recipe": "smoke",
        "overrides": SMALL,
        "store": str(root),
        "run_name": "a-run",
    }
    shards = artifact(tmp_path / "manifest.json")
    Path(shards.path).write_bytes(stored_manifest(run).to_json())
    statistics, metrics = artifact(tmp_path / "statistics"), artifact(tmp_path / "metrics")
    reference_statistics_component(shards=shards, statistics=statistics, metrics=metrics, **common)
    handed = HandOver.from_json(Path(statistics.path).read_bytes())
    assert {name: handed.sha256(name) for name in handed.objects} == {
        name: entry["sha256"] for name, entry in reference.outputs.items()
    }
    assert isinstance(statistics.metadata["epg"], str)
    assert metrics.metadata["num_images"] == float(reference.metrics["num_images"])

    metrics, grid = artifact(tmp_path / "metrics"), artifact(tmp_path / "grid.html")
    evaluate_component(
        shards=shards,
        statistics=statistics,
        generator=artifact(tmp_path / "generator", weights.to_json()),
        metrics=metrics,
        grid=grid,
        objective="denoising",
        **common,
    )
    assert Path(grid.path).read_bytes() == output(run, evaluated, "grid_page")
    exact = json.loads(metrics.metadata["epg"])
    name = "frechet_distance"
    assert float(exact[name]) == metrics.metadata[name] == evaluated.metrics[name]
    assert not Path(metrics.path).exists()


def test_bad_settings_are_refused_before_work(root, run, reference, weights):
    few = Run.open("smoke", SMALL | {"evaluate.num_samples": 3}, str(root), "a-run")
    with pytest.raises(UserError, match=r"evaluate\.neighbours is 3: it must be below"):
        evaluate(few, "denoising", generator=weights)
    fid = Run.open("smoke", SMALL | {"evaluate.networks": ["inception"]}, str(root), "a-run")
    for stage in (reference_statistics, lambda run: evaluate(run, "denoising", None, weights)):
        with pytest.raises(UserError) as caught:
            stage(fid)
        assert WEIGHTS["inception"].url in str(caught.value)
        assert "`epg weights inception` fetches it" in str(caught.value)
    with pytest.raises(UserError, match="objective 'gan'"):
        evaluate(run, "gan")


@pytest.fixture
def published(monkeypatch) -> None:
    """A cheap network takes the place of the real one, whose weights cannot travel with tests."""
    from epg.evaluation.features import inception, networks, weights

    class Cheap(inception.FidInception):
        width = 30

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def describe(self, images: torch.Tensor) -> Features:
            x = images.flatten(1).float() / 255
            return Features(x[:, 10:40], x[:, 20:30], x[:, :25])

    found = Found(WEIGHTS["inception"], path=Path("nowhere"))
    for module in (weights, networks):
        monkeypatch.setattr(module, "find_weights", lambda *_: found)
    monkeypatch.setattr(inception, "load_inception", lambda path, device: Cheap())


def test_fid_comes_from_the_same_stages(root, run, weights_file, published):
    settings = SMALL | {"evaluate.networks": ["inception"], "evaluate.svc": None}
    fid = Run.open("smoke", settings, str(root), "fid-run")
    shard(fid)
    reference = reference_statistics(fid)
    weights = hand_over(fid, "finetune-denoising", generator=weights_file)
    assert set(reference.outputs) == {"statistics-inception", "neighbours"}
    record = evaluate(fid, "denoising", generator=weights)
    assert set(record.metrics) == ALL - OWN - {"svc_agreement"}
    assert record.metrics["fid"] > 0
    assert record.details["feature_network"] == "inception-2015-12-05"


def test_several_networks_judge_the_same_samples(
    root, evaluated, reference, weights_file, published
):
    """One network's figures do not depend on who else looks; the first one's have plain names."""
    both = ["classifier", "inception"]
    run = Run.open("smoke", SMALL | {"evaluate.networks": both}, str(root), "two-networks")
    shard(run)
    of_both = reference_statistics(run)
    statistics = {f"statistics-{kind}" for kind in both}
    assert set(of_both.outputs) == statistics | {"neighbours", "classifier"}
    for name in ("statistics-classifier", "neighbours", "classifier"):
        assert of_both.outputs[name]["sha256"] == reference.outputs[name]["sha256"]
    weights = hand_over(run, "finetune-denoising", generator=weights_file)
    record = evaluate(run, "denoising", generator=weights)
    shared = ("precision", "recall", "density", "coverage", "variety")
    further = {f"{name}_inception" for name in shared}
    assert set(record.metrics) == ALL | further
    assert record.outputs["samples"]["sha256"] == evaluated.outputs["samples"]["sha256"]
    same = set(evaluated.metrics) - {"images_per_second"}
    assert {k: record.metrics[k] for k in same} == {k: evaluated.metrics[k] for k in same}
    names = {"classifier": "digits-cnn", "inception": "inception-2015-12-05"}
    assert record.details["feature_networks"] == of_both.details["feature_networks"] == names

    turned = Run.open("smoke", SMALL | {"evaluate.networks": both[::-1]}, str(root), "two-networks")
    reference_statistics(turned)
    other = evaluate(turned, "denoising", generator=weights).metrics
    assert other["precision_classifier"] == record.metrics["precision"]
    assert other["recall"] == record.metrics["recall_inception"]
    assert other["fid"] == record.metrics["fid"]


def test_the_reference_may_be_the_images_that_were_trained_on(root, reference, weights_file):
    settings = SMALL | {"evaluate.reference": "train", "evaluate.labels": "random"}
    run = Run.open("smoke", settings, str(root), "as-papers-do")
    shard(run)
    train = stored_manifest(run).num_samples("train")
    described = reference_statistics(run)
    assert described.metrics["num_images"] == train
    # The judge is tried on images that it was not trained on all the same.
    quality = "classifier_held_out_accuracy"
    assert described.metrics[quality] == reference.metrics[quality]
    weights = hand_over(run, "finetune-denoising", generator=weights_file)
    record = evaluate(run, "denoising", generator=weights)
    facts = record.details[FACTS]
    assert facts["references"]["classifier"]["split"] == "train"
    assert facts["references"]["classifier"]["num_images"] == train
    assert facts["labels"] == "random"


def test_how_a_figure_was_measured_stands_beside_it(run, evaluated):
    hashes, facts = evaluated.details[HASHES], evaluated.details[FACTS]
    assert set(hashes) == {name for name in evaluated.metrics if FIGURES[name].judges}
    space = facts["networks"]["classifier"]
    assert space["name"] == "digits-cnn"
    assert len(space["weights"]) == 64
    assert facts["num_samples"] == 40
    assert facts["references"]["classifier"]["digest"] == stored_manifest(run).sha256
    low, high = evaluated.details["intervals"]["frechet_distance"]
    assert low < evaluated.metrics["frechet_distance"] < high
    assert "frechet_distance of 40 images, fewer than its 64" in evaluated.details["warnings"][0]


def test_an_evaluation_that_was_killed_goes_on(root, weights, reference, monkeypatch):
    """Neither images nor figures differ from those of one that was not killed."""
    settings = SMALL | {"evaluate.num_samples": 150, "evaluate.batch_size": 64}
    run = Run.open("smoke", settings, str(root), "a-run")
    read, read_spans = GeneratedImages.read, []

    def reading(until: int) -> None:
        def counted(self: GeneratedImages, start: int, end: int) -> torch.Tensor:
            if start >= until:
                raise KeyboardInterrupt
            read_spans.append((start, end))
            return read(self, start, end)

        monkeypatch.setattr(GeneratedImages, "read", counted)

    monkeypatch.setattr(looking, "PART_SECONDS", 0.0)
    reading(until=64)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, "denoising", generator=weights)
    reading(until=150)
    record = evaluate(run, "denoising", generator=weights)
    assert read_spans == [(0, 64), (64, 128), (128, 150)]
    assert not list(run.store.list("evaluate-denoising/parts/"))
    run.store.delete("stages/evaluate-denoising.json")
    again = evaluate(run, "denoising", generator=weights).metrics
    same = set(again) - {"images_per_second"}
    assert {k: record.metrics[k] for k in same} == pytest.approx(
        {k: again[k] for k in same}, rel=1e-9
    )


def test_several_processes_share_an_evaluation(root, weights, reference, monkeypatch):
    """One for each GPU, or as many as are asked for; no figure tells how many there were."""
    settings = SMALL | {"evaluate.num_samples": 200, "evaluate.batch_size": 64}
    run = Run.open("smoke", settings, str(root), "a-run")
    alone = evaluate(run, "denoising", generator=weights)
    run.store.delete("stages/evaluate-denoising.json")
    monkeypatch.setenv("EPG_PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shared = evaluate(run, "denoising", generator=weights)
    assert shared.details[HASHES] == alone.details[HASHES]
    for name in set(alone.metrics) - {"images_per_second"}:
        assert shared.metrics[name] == pytest.approx(alone.metrics[name], rel=1e-9), name
    assert shared.outputs["samples"]["sha256"] == alone.outputs["samples"]["sha256"]
    assert not list(run.store.list("evaluate-denoising/parts/"))


def test_a_process_that_fails_is_told(root, weights, reference, monkeypatch):
    settings = SMALL | {"evaluate.num_samples": 199, "evaluate.batch_size": 64}
    run = Run.open("smoke", settings, str(root), "a-run")
    monkeypatch.setenv("EPG_PROCESSES", "2")
    nowhere = functools.partial(children.start, environment={"EPG_SCRATCH": "/no"})
    monkeypatch.setattr(children, "start", nowhere)
    with pytest.raises(UserError, match="a process that shares the evaluation failed"):
        evaluate(run, "denoising", generator=weights)


def test_no_figure_is_of_a_part_of_the_images(root, weights, reference, monkeypatch):
    """What another process has stored is damaged before it is read: nothing is left out."""
    settings = SMALL | {"evaluate.num_samples": 130, "evaluate.batch_size": 64}
    run = Run.open("smoke", settings, str(root), "a-run")
    monkeypatch.setenv("EPG_PROCESSES", "2")
    read, reads = StoredParts.read, []

    def damaged(self: StoredParts) -> list[Part]:
        reads.append(read(self))
        return reads[-1][:-1]

    monkeypatch.setattr(StoredParts, "read", damaged)
    with pytest.raises(UserError, match="parts of the evaluation are damaged or gone"):
        evaluate(run, "denoising", generator=weights)
    assert [len(parts) for parts in reads] == [0, 2]


def test_labels_go_round_the_classes_or_are_drawn():
    assert drawn_labels("balanced", 7, 3, 0).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert drawn_labels("balanced", 7, 3, 0).dtype == np.int64
    drawn = drawn_labels("random", 3000, 3, 0)
    assert np.bincount(drawn).min() > 900
    assert np.array_equal(drawn, drawn_labels("random", 3000, 3, 0))
    assert not np.array_equal(drawn, drawn_labels("random", 3000, 3, 1))
    assert [labels_rule(labels, 3) for labels in (drawn, drawn_labels("balanced", 7, 3, 0))] == [
        "random",
        "balanced",
    ]
    assert labels_rule(np.array([0, 0, 10**15]), 10**15 + 1) == "random"  # takes no memory for them
    assert labels_rule(np.array([0, 1, 2]), 4) == "balanced"


def test_altered_statistics_are_not_used(run, reference, tmp_path):
    key = reference.outputs["statistics-classifier"]["key"]
    good = run.store.get_bytes(key)
    run.store.put_bytes(key, good[:-1] + b"x")
    try:
        with pytest.raises(UserError, match="SHA-256"):
            fetch_output(run, reference, "statistics-classifier", tmp_path / "statistics.npz")
    finally:
        run.store.put_bytes(key, good)

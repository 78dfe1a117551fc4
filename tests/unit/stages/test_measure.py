"""`epg evaluate --samples`: anybody's images against a run's statistics, a file, or images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epg import children
from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.evaluation import looking
from epg.evaluation.features import classifier, inception, networks, weights
from epg.evaluation.features.base import Features, Statistics
from epg.evaluation.features.weights import WEIGHTS, Found
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.moments import Moments
from epg.evaluation.parts import StoredParts
from epg.evaluation.saving import write_images
from epg.evaluation.sources import TimedImages
from epg.measures import FIGURES
from epg.model.files import save_weights
from epg.model.generator import Generator
from epg.protocol import FACTS, HASHES, incomparable
from epg.runs.run import Run
from epg.stages.evaluate import evaluate
from epg.stages.measure import Request, measure, write_figures
from epg.stages.reference_statistics import reference_statistics
from epg.stages.shard import shard
from epg.store import open_store
from epg.store.lease import InUse
from epg.store.local import LocalStore
from tests.toys.handed import hand_over

RNG = np.random.default_rng(0)
COUNT = 90
PIXELS = RNG.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
OTHERS = RNG.integers(0, 200, (COUNT, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(COUNT, dtype=np.int64) % 10


class Cheap(inception.FidInception):
    """Takes the place of the network whose weights cannot travel with tests."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.weights_digest = "c" * 64

    width = 30

    def describe(self, images: torch.Tensor) -> Features:
        x = images.flatten(1).float() / 255
        return Features(x[:, 10:40], x[:, 20:30], x[:, :25])


@pytest.fixture(autouse=True)
def _cheap(monkeypatch) -> None:
    found = Found(WEIGHTS["inception"], path=Path("nowhere"))
    for module in (weights, networks):
        monkeypatch.setattr(module, "find_weights", lambda *_: found)
    monkeypatch.setattr(inception, "load_inception", lambda path, device: Cheap())


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def weights_file(tmp_path) -> Path:
    recipe = load_recipe("smoke")
    path = tmp_path / "generator.safetensors"
    arguments = recipe.generator_arguments()
    header = {
        "kind": "generator",
        "objective": "denoising",
        "classes": [str(i) for i in range(10)],
        "generator_arguments": arguments,
        "recipe": recipe.model_dump(mode="json"),
    }
    torch.manual_seed(0)
    save_weights(path, Generator(**arguments).state_dict(), header)
    return path


@pytest.fixture
def samples(tmp_path) -> Path:
    return saved(tmp_path / "samples.npz", arr_0=PIXELS, arr_1=LABELS)


def features(pixels: np.ndarray, part: slice) -> np.ndarray:
    return pixels.reshape(len(pixels), -1)[:, part].astype(np.float32) / 255


def adm(path: Path, **changes: Any) -> Path:
    """A file as the ADM suite has them: statistics of all real images, and some of these."""
    real = np.concatenate([OTHERS, OTHERS[::-1] // 2])
    pool, spatial = features(real, slice(10, 40)), features(real, slice(0, 25))
    arrays = {
        "mu": pool.mean(0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial, rowvar=False),
        "arr_0": OTHERS,
    }
    return saved(path, **{k: v for k, v in {**arrays, **changes}.items() if v is not None})


def test_adms_file_is_a_reference(samples, tmp_path):
    found = measure(Request(samples, adm(tmp_path / "reference.npz")))
    metrics, details = found["metrics"], found["details"]
    pool = features(np.concatenate([OTHERS, OTHERS[::-1] // 2]), slice(10, 40))
    wanted = frechet_distance(Moments.of(pool), Moments.of(features(PIXELS, slice(10, 40))))
    assert metrics["fid"] == pytest.approx(wanted, rel=1e-5)
    shared = ("precision", "recall", "density", "coverage", "variety")
    assert set(metrics) == {"fid", "sfid", "kid", "inception_score", "num_samples", *shared}
    reference = details[FACTS]["references"]["inception"]
    assert (reference["split"], reference["source"]) == ("file", "reference.npz")
    assert reference["network_assumed"]  # such a file does not say whose features it holds
    assert details[FACTS]["labels"] == "balanced"
    assert set(details[HASHES]) == {name for name in metrics if FIGURES[name].judges}
    out = tmp_path / "figures.json"
    write_figures(found, out)
    assert json.loads(out.read_text())["metrics"] == metrics


def test_our_own_statistics_are_a_reference_for_their_network_alone(samples, tmp_path):
    pool = features(OTHERS, slice(10, 40))
    path = tmp_path / "statistics.npz"
    path.write_bytes(Statistics(Moments.of(pool), None, pool).to_npz(Cheap()))
    found = measure(Request(samples, path))
    of_images = measure(Request(samples, saved(tmp_path / "real.npz", arr_0=OTHERS)))["metrics"]
    assert found["metrics"] == pytest.approx(
        {name: value for name, value in of_images.items() if name != "sfid"}, rel=1e-6
    )
    reference = found["details"][FACTS]["references"]["inception"]
    assert (reference["num_images"], reference["network_assumed"]) == (COUNT, False)
    other = Cheap()
    other.weights_digest = "d" * 64
    path.write_bytes(Statistics(Moments.of(pool), None, pool).to_npz(other))
    with pytest.raises(UserError, match=r"of another network: weights dddddddddddd\.\.\., not ccc"):
        measure(Request(samples, path))


def test_statistics_without_images_give_what_they_can(samples, tmp_path):
    path = adm(tmp_path / "reference.npz", arr_0=None, mu_s=None, sigma_s=None)
    metrics = measure(Request(samples, path))["metrics"]
    assert set(metrics) == {"fid", "inception_score", "variety", "num_samples"}


def test_images_are_a_reference_in_any_form(samples, tmp_path):
    plain = saved(tmp_path / "real.npz", arr_0=OTHERS)
    np.savez_compressed(tmp_path / "small.npz", arr_0=OTHERS)
    one, other = (measure(Request(samples, path)) for path in (plain, tmp_path / "small.npz"))
    assert one["metrics"] == other["metrics"]
    assert one["details"][HASHES] == other["details"][HASHES]
    itself = measure(Request(samples, samples))["metrics"]
    assert itself["fid"] == pytest.approx(0, abs=1e-9)
    assert (itself["precision"], itself["recall"], itself["variety"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mu": np.zeros(768), "sigma": np.eye(768)}, "statistics of 768 features, where Incept"),
        ({"sigma": None}, "mu and sigma go together"),
        ({"mu": None, "sigma": None}, "spatial statistics, and no mu and sigma"),
        ({"sigma": np.full((30, 30), np.nan)}, "numbers that are not finite"),
        ({"sigma": np.triu(np.ones((30, 30)))}, "sigma is no covariance"),
        ({"sigma": np.eye(29)}, r"have the shapes \(30,\) and \(29, 29\)"),
        ({"mu": np.array([{}] * 30, dtype=object)}, "where numbers are expected"),
        ({"arr_0": OTHERS.repeat(2, 1).repeat(2, 2)}, "a reference of 16 x 16 pixels"),
        ({"arr_0": OTHERS[:, :, :, :1]}, "1 channel, for images of 8 x 8 pixels, 3 channels"),
    ],
)
def test_other_references_are_refused_in_one_line(samples, tmp_path, changes, reason):
    path = adm(tmp_path / "reference.npz", **changes)
    with pytest.raises(UserError, match=reason) as caught:
        measure(Request(samples, path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "settings", "reason"),
    [
        ({"arr_0": PIXELS * 0}, {}, "every pixel of every image is black"),
        ({"arr_0": PIXELS * 0 + 7}, {}, "every pixel of every image is of one value, 7"),
        ({"arr_0": PIXELS[:30]}, {}, "30 images are no more than the 30 features of inception"),
        ({"arr_0": PIXELS, "arr_1": LABELS // 2}, {"labels": "balanced"}, "not in equal number"),
        ({"arr_0": PIXELS}, {"labels": "fair"}, "--labels fair: use balanced"),
        ({"arr_0": PIXELS}, {"reference": None}, "nothing to compare with"),
        ({"arr_0": PIXELS}, {"networks": ("classifier",)}, "trained on a run's own images"),
        ({"arr_0": PIXELS}, {"networks": ("clip",)}, "--networks clip: use classifier, inception"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, arrays, settings, reason):
    if arrays.get("arr_1") is not None:
        arrays = {**arrays, "arr_1": np.where(LABELS == 9, 0, LABELS)}
    path = saved(tmp_path / "samples.npz", **arrays)
    request = Request(path, saved(tmp_path / "real.npz", arr_0=OTHERS))
    with pytest.raises(UserError, match=reason):
        measure(replace(request, **settings))


def test_few_images_are_measured_for_those_who_say_so(tmp_path):
    path = saved(tmp_path / "few.npz", arr_0=PIXELS[:20])
    real = saved(tmp_path / "real.npz", arr_0=OTHERS)
    found = measure(Request(path, real, few=True))
    low, high = found["details"]["intervals"]["fid"]
    assert low < found["metrics"]["fid"] < high


def test_a_recipe_may_name_adms_file(tmp_path, weights_file):
    adm_file = adm(tmp_path / "adm.npz", arr_0=OTHERS[:, :, :, :1])
    real = np.load(adm_file)
    mean = real["mu"]
    settings = {
        "evaluate.networks": ["classifier", "inception"],
        "evaluate.classifier_epochs": 1,
        "evaluate.num_samples": 40,
        "evaluate.few": True,
        "evaluate.reference_file": str(adm_file),
        "denoising.sampling_steps": 2,
    }
    run = Run.open("smoke", settings, str(tmp_path), "a-run")
    shard(run)
    described = reference_statistics(run)
    told = described.details["references"]
    assert (told["inception"]["split"], told["classifier"]["split"]) == ("file", "held-out")
    path = tmp_path / "statistics.npz"
    run.store.get_file(described.outputs["statistics-inception"]["key"], path)
    found = Statistics.from_npz(path, Cheap())
    assert np.array_equal(found.moments.mean, mean)
    assert len(found.features) == COUNT
    weights = hand_over(run, "finetune-denoising", generator=weights_file)
    record = evaluate(run, "denoising", generator=weights)
    assert record.metrics["fid"] > 0
    assert record.details[FACTS]["references"]["inception"]["source"] == "adm.npz"
    run.store.put_bytes("adm.npz", b"")  # of the run, not of the store of the runs
    for place in ("adm.npz", "absent.npz", f"file://{tmp_path}/absent.npz"):
        other = Run.open(
            "smoke", {**settings, "evaluate.reference_file": place}, str(tmp_path / "x"), "r"
        )
        shard(other)
        with pytest.raises(UserError, match=r"evaluate\.reference_file is"):
            reference_statistics(other)


def test_statistics_are_known_to_all_runs_of_a_store(tmp_path, monkeypatch):
    seen = []
    describe = Cheap.describe

    def noted(self: Cheap, images: torch.Tensor) -> Features:
        seen.append(len(images))
        return describe(self, images)

    monkeypatch.setattr(Cheap, "describe", noted)
    settings = {
        "evaluate.networks": ["inception"],
        "evaluate.reference": "train",
        "evaluate.few": True,
    }

    def described(name: str, **changes: Any) -> str:
        run = Run.open("smoke", {**settings, **changes}, str(tmp_path), name)
        shard(run)
        seen.clear()
        return str(reference_statistics(run).outputs["statistics-inception"]["sha256"])

    first = described("one")
    assert sum(seen) == 1438
    assert described("two") == first
    assert seen == []
    other = described("three", **{"evaluate.reference": "held-out"})
    assert sum(seen) == 359
    assert other != first
    (kept, *_) = sorted((tmp_path / "statistics").iterdir())
    for path in (tmp_path / "statistics").iterdir():
        path.write_bytes(kept.read_bytes()[:100])
    assert described("four") == first  # damaged: made again
    assert sum(seen) == 1438


def test_a_file_needs_inception():
    with pytest.raises(UserError, match="holds statistics of Inception"):
        load_recipe("smoke", {"evaluate.reference_file": "x.npz"})


def test_a_runs_statistics_are_a_reference(tmp_path):
    settings = {"evaluate.classifier_epochs": 1}
    run = Run.open("smoke", settings, str(tmp_path), "a-run")
    shard(run)
    reference_statistics(run)
    grey = saved(tmp_path / "samples.npz", arr_0=PIXELS[:, :, :, :1], arr_1=LABELS)
    found = measure(Request(grey, run=run))
    assert {"frechet_distance", "class_agreement", "precision"} < set(found["metrics"])
    assert found["details"][FACTS]["references"]["classifier"]["split"] == "held-out"
    again = measure(Request(grey, run=run, labels="random"))
    assert incomparable("precision", found["details"], again["details"])
    unlabelled = saved(tmp_path / "unlabelled.npz", arr_0=PIXELS[:, :, :, :1])
    assert "class_agreement" not in measure(Request(unlabelled, run=run))["metrics"]
    with pytest.raises(
        UserError,
        match="images of 8 x 8 pixels, 3 channels, and those of the recipe have 8 x 8 pixels, 1 c",
    ):
        measure(Request(saved(tmp_path / "colour.npz", arr_0=PIXELS), run=run))
    beyond = saved(tmp_path / "beyond.npz", arr_0=PIXELS[:, :, :, :1], arr_1=LABELS + 5)
    with pytest.raises(UserError, match="images of class 14: the recipe has classes 0 to 9"):
        measure(Request(beyond, run=run))


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Run:
    """A run with statistics of digits in its own classifier, which child processes can load."""
    root = tmp_path_factory.mktemp("store")
    run = Run.open("smoke", {"evaluate.classifier_epochs": 1}, str(root), "a-run")
    shard(run)
    reference_statistics(run)
    return run


def grey(path: Path, count: int) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return saved(path, arr_0=pixels, arr_1=np.arange(count, dtype=np.int64) % 10)


def assert_same(one: dict[str, Any], other: dict[str, Any], run: Run) -> None:
    assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-9)
    assert one["details"][HASHES] == other["details"][HASHES]
    assert not (Path(run.store_uri) / "measured").exists()


def test_measuring_that_was_killed_goes_on(described, tmp_path, monkeypatch):
    """No image is seen twice, neither of the samples nor of the reference."""
    request = Request(grey(tmp_path / "x.npz", 1100), grey(tmp_path / "y.npz", 1400), run=described)
    alone = measure(request)
    open_store(described.store_uri).clear("statistics")  # known of the reference by now
    monkeypatch.setattr(looking, "PART_SECONDS", 0.0)
    read = TimedImages.read
    spans: list[tuple[int, int]] = []

    def reading(until: int) -> None:
        def counted(self: TimedImages, start: int, end: int) -> torch.Tensor:
            if len(spans) == until:
                raise KeyboardInterrupt
            spans.append((start, end))
            return read(self, start, end)

        monkeypatch.setattr(TimedImages, "read", counted)

    for until in (2, 5):
        reading(until)
        with pytest.raises(KeyboardInterrupt):
            measure(request)
    assert spans[:3] == [(0, 512), (512, 1024), (1024, 1400)]
    reading(99)
    assert_same(measure(request), alone, described)
    assert spans[3:] == [(0, 512), (512, 1024), (1024, 1100)]


def test_several_processes_share_the_measuring(described, tmp_path, monkeypatch):
    """Of a folder as of an `.npz`."""
    path = grey(tmp_path / "x.npz", 1100)
    with np.load(path) as found:
        write_images(tmp_path / "folder", iter([found["arr_0"]]), found["arr_1"], (1100, 8, 8, 1))
    alone = measure(Request(path, run=described))
    assert_same(measure(Request(tmp_path / "folder", run=described)), alone, described)
    monkeypatch.setenv("EPG_PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started: list[str] = []
    start = children.start

    def noted(module: str, arguments: list[str], **named: Any) -> Any:
        started.append(arguments[1])
        return start(module, arguments, **named)

    monkeypatch.setattr(children, "start", noted)
    assert_same(measure(Request(path, run=described)), alone, described)
    assert started == ["1"]


def test_other_images_under_the_same_name_are_looked_at(described, tmp_path, monkeypatch):
    request = Request(grey(tmp_path / "x.npz", 600), run=described)
    with monkeypatch.context() as kept:
        kept.setattr(StoredParts, "clear", lambda self: None)
        kept.setattr(LocalStore, "clear", lambda *_: None)
        measure(request)
    assert (Path(described.store_uri) / "measured").exists()
    saved(request.images, arr_0=np.zeros((600, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="every pixel of every image is black"):
        measure(request)


def test_a_reference_is_looked_at_once_in_whatever_form(described, tmp_path, monkeypatch):
    request = Request(grey(tmp_path / "x.npz", 600), grey(tmp_path / "y.npz", 700), run=described)
    first = measure(request)
    read = TimedImages.read
    spans: list[tuple[int, int]] = []

    def noted(self: TimedImages, start: int, end: int) -> torch.Tensor:
        spans.append((start, end))
        return read(self, start, end)

    monkeypatch.setattr(TimedImages, "read", noted)
    with np.load(tmp_path / "y.npz") as found:
        np.savez_compressed(tmp_path / "z.npz", arr_0=found["arr_0"])
    again = measure(replace(request, reference=tmp_path / "z.npz"))
    assert spans == [(0, 512), (512, 600)]  # of the samples alone
    assert again["metrics"] == first["metrics"]
    assert again["details"][HASHES] == first["details"][HASHES]


def test_two_do_not_measure_the_same_images_at_once(described, tmp_path, monkeypatch):
    request = Request(grey(tmp_path / "x.npz", 600), run=described)
    read = TimedImages.read

    def meanwhile(self: TimedImages, start: int, end: int) -> torch.Tensor:
        monkeypatch.setattr(TimedImages, "read", read)
        with pytest.raises(InUse, match=r"epg evaluate of .*x\.npz"):
            measure(request)
        return read(self, start, end)

    monkeypatch.setattr(TimedImages, "read", meanwhile)
    measure(request)


def test_a_runs_statistics_of_another_network_are_refused(described, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier.Classifier, "preprocessing", "otherwise")
    with pytest.raises(UserError, match=r"of another network: preprocessing 8 pixels.* otherwise"):
        measure(Request(grey(tmp_path / "x.npz", 600), run=described))

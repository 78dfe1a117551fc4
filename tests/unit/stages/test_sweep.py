"""`epg sweep`: every setting once, the best said as overrides, on other seeds than the final."""

from __future__ import annotations

import json

import pytest
import torch

from epg.errors import UserError
from epg.evaluation.features import networks as feature_networks
from epg.evaluation.generate import GeneratedImages
from epg.model.files import save_weights
from epg.model.generator import Generator
from epg.report.sweep import sweep_page
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.evaluate import evaluate
from epg.stages.inputs import stored_manifest
from epg.stages.reference_statistics import reference_statistics
from epg.stages.shard import shard
from epg.stages.sweep import sweep
from epg.stages.sweep_grid import Grid, read_grid
from epg.store.digest import file_sha256
from tests.unit.report.pages import check_page

SMALL = {
    "evaluate.num_samples": 40,
    "evaluate.few": True,
    "evaluate.batch_size": 64,
    "evaluate.classifier_epochs": 1,
    "denoising.sampling_steps": 2,
    "denoising.ema_decay": [0.9, 0.5],
    "evaluate.svc": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run whose generator was trained, as far as its record tells."""
    run = Run.open("smoke", SMALL, str(tmp_path_factory.mktemp("store")), "a-run")
    shard(run)
    reference_statistics(run)
    torch.manual_seed(0)
    arguments = run.recipe.generator_arguments()
    header = {
        "kind": "generator",
        "objective": "denoising",
        "classes": stored_manifest(run).classes,
        "generator_arguments": arguments,
        "recipe": run.recipe.model_dump(mode="json"),
    }
    generator = Generator(**arguments)
    outputs = {}
    for kind in ("generator", "generator-ema-0.5"):
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
        save_weights(path, generator.state_dict(), header)
        key = f"finetune-denoising/{kind}.safetensors"
        run.store.put_file(key, path)
        outputs[kind] = {"key": key, "sha256": file_sha256(path), "size": path.stat().st_size}
    moment = "2026-11-23T00:00:00+00:00"
    record = StageRecord(
        "finetune-denoising", "f", {}, {}, outputs, {}, {}, moment, moment, 0.0, {}
    )
    run.store.put_bytes("stages/finetune-denoising.json", record.to_json())
    return run


@pytest.fixture
def opened(monkeypatch) -> list[list[str]]:
    """The feature networks, each time that they were loaded."""
    found: list[list[str]] = []
    load = feature_networks.open_networks

    def noted(kinds, *arguments, **named):
        found.append(list(kinds))
        return load(kinds, *arguments, **named)

    monkeypatch.setattr(feature_networks, "open_networks", noted)
    return found


@pytest.fixture
def made(monkeypatch) -> list[tuple[float, int]]:
    """(guidance scale, seed) of every set that was generated."""
    found: list[tuple[float, int]] = []
    start = GeneratedImages.__init__

    def noted(self, loaded, labels, **settings) -> None:
        found.append((settings["sampling"].guidance_scale, settings["seed"]))
        start(self, loaded, labels, **settings)

    monkeypatch.setattr(GeneratedImages, "__init__", noted)
    return found


def content(run: Run, record: StageRecord, name: str) -> bytes:
    return run.store.get_bytes(record.outputs[name]["key"])


def test_the_best_of_all_settings_is_said_as_overrides(run, made, opened):
    record = sweep(run, "denoising", Grid(guidance_scale=(1.0, 2.0), steps=(2, 3)))
    told = json.loads(content(run, record, "points"))
    assert [point["settings"] for point in told["points"]] == [
        {"guidance_scale": scale, "steps": steps} for scale in (1.0, 2.0) for steps in (2, 3)
    ]
    distances = [point["metrics"]["frechet_distance"] for point in told["points"]]
    best = told["points"][distances.index(min(distances))]
    assert told["best"] == best
    assert record.metrics == {"best": min(distances), "points": 4}
    assert json.loads(content(run, record, "overrides")) == {
        "denoising.guidance_scale": best["settings"]["guidance_scale"],
        "denoising.sampling_steps": best["settings"]["steps"],
    }
    page = check_page(content(run, record, "plot").decode()).text
    assert "Fréchet distance by guidance scale" in page
    assert run.recipe.seed not in {seed for _, seed in made}  # not those of the final figure

    assert opened == [["classifier"]]  # once for all settings

    # What was tried is not tried again, whatever else is.
    made.clear()
    assert sweep(run, "denoising", Grid(guidance_scale=(1.0, 2.0), steps=(2, 3))) == record
    assert made == []
    more = sweep(run, "denoising", Grid(guidance_scale=(1.0, 2.0, 3.0), steps=(2,)))
    assert [scale for scale, _ in made] == [3.0]
    assert more.metrics["points"] == 3
    damaged = next(iter(run.store.list("sweep-denoising/points/"))).key
    run.store.put_bytes(damaged, b"{}")
    made.clear()
    sweep(run, "denoising", Grid(guidance_scale=(2.0, 1.0), steps=(3, 2)))
    assert len(made) == 1


def test_the_best_average_is_an_override_that_an_evaluation_takes(run, made):
    record = sweep(run, "denoising", Grid(ema=(0.9, 0.5)))
    told = json.loads(content(run, record, "points"))
    distances = [point["metrics"]["frechet_distance"] for point in told["points"]]
    assert distances[0] != distances[1]
    best = (0.9, 0.5)[distances.index(min(distances))]
    assert json.loads(content(run, record, "overrides")) == {"denoising.sampling_ema": best}
    assert set(record.inputs) >= {"generator", "generator-ema-0.5"}

    # An evaluation takes the average that the recipe names, and so does a sweep that varies others.
    chosen = SMALL | {"denoising.sampling_ema": 0.5}
    other = Run.open("smoke", chosen, run.store_uri, "a-run")
    made.clear()
    again = sweep(other, "denoising", Grid(steps=(2,)))
    assert made == []
    assert again.metrics["best"] == distances[1]
    weights = json.loads(run.store.get_bytes("stages/finetune-denoising.json"))["outputs"]
    judged = evaluate(other, "denoising")
    assert judged.inputs["generator"] == weights["generator-ema-0.5"]["sha256"]
    assert {seed for _, seed in made} == {run.recipe.seed}


@pytest.mark.parametrize(
    ("grid", "settings", "reason"),
    [
        (Grid(), {}, "nothing to try"),
        (Grid(guidance_scale=(0.5,)), {}, "guidance_scale is 0.5"),
        (Grid(guidance_interval=((2.0, 1.0),)), {}, "guidance_interval"),
        (Grid(steps=(1,)), {}, "steps is 1"),
        (Grid(ema=(0.7,)), {}, "ema 0.7: the training kept averages at"),
        (Grid(steps=tuple(range(2, 300))), {}, "298 settings to try: at most 200"),
        (Grid(steps=(2,)), {"num_samples": 64}, "--samples 64: 64 images are no more than the 64"),
        (Grid(steps=(2,)), {"figure": "fid"}, "--figure fid: this recipe measures frechet_dist"),
        ({"scale": [1]}, {}, "grid has 'scale'"),
        ({"steps": ["many"]}, {}, r"grid: steps is \['many'\]: write whole numbers, such as"),
    ],
)
def test_senseless_sweeps_are_refused_before_work(run, made, grid, settings, reason):
    enough = {"evaluate.few": False, "evaluate.num_samples": 100}
    asked = Run.open("smoke", SMALL | enough, run.store_uri, "a-run")
    with pytest.raises(UserError, match=reason) as caught:
        sweep(asked, "denoising", grid, **settings)
    assert "\n" not in str(caught.value)
    assert made == []


@pytest.mark.parametrize(
    "given",
    [
        {"steps": [18.5]},
        {"steps": "18"},
        {"steps": 18},
        {"guidance_scale": [True]},
        {"guidance_scale": [float("nan")]},
        {"guidance_scale": [10**400]},
        {"guidance_scale": {"1": 2}},
        {"guidance_interval": [0.19, 1.61]},
        {"guidance_interval": [[0.19, 1.61, 2.0]]},
        {"guidance_interval": ["05"]},
        {"ema": None},
    ],
)
def test_values_that_are_none_are_not_taken_for_others(given):
    (name,) = given
    with pytest.raises(UserError, match=f"grid: {name} is .*: write .*, such as \\["):
        read_grid(given)


def test_a_grid_comes_through_kubeflow_whose_numbers_are_doubles():
    given = {"steps": [18.0, 32.0], "guidance_interval": [[0, 1.61]], "guidance_scale": [1]}
    assert read_grid(given) == Grid(
        guidance_scale=(1.0,), guidance_interval=((0.0, 1.61),), steps=(18, 32)
    )


def test_the_other_objective_has_no_generator_here(run):
    with pytest.raises(UserError, match="'finetune-consistency' of run 'a-run' is not done"):
        sweep(run, "consistency", Grid(steps=(2,)))
    with pytest.raises(UserError, match="objective 'gan'"):
        sweep(run, "gan", Grid(steps=(2,)))


def test_a_page_of_intervals_and_values_that_are_none():
    points = [
        {"settings": {"guidance_interval": [0.19, 1.61]}, "metrics": {"fid": 2.0}},
        {"settings": {"guidance_interval": [0.0, 80.0]}, "metrics": {"fid": None}},
    ]
    told = {"figure": "fid", "num_samples": 10_000, "best": points[0], "points": points}
    page = check_page(sweep_page("mine", told)).text
    assert "(0.19, 1.61]" in page
    assert "10,000 images" in page

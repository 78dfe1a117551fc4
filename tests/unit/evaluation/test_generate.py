"""Sampling: seeds belong to samples, options are checked, evaluations are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epg.config.loading import load_recipe
from epg.config.sampling import SamplingConfig
from epg.errors import UserError
from epg.evaluation.generate import generate, trajectory, worth_recording
from epg.evaluation.sample_noise import SeriesNoise
from epg.model.files import LoadedGenerator, load_generator, load_weights, save_weights
from epg.model.generator import Generator

LABELS = np.array([0, 3, 3, 7, 9])


def weights_file(folder: Path, objective: str, **header: Any) -> Path:
    recipe = load_recipe("smoke")
    torch.manual_seed(0)
    generator = Generator(**recipe.generator_arguments())
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    path = folder / f"{objective}.safetensors"
    metadata = {
        "kind": "generator",
        "objective": objective,
        "classes": [str(i) for i in range(10)],
        "generator_arguments": recipe.generator_arguments(),
        "sampling": recipe.sampling(objective).model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        **header,
    }
    save_weights(path, generator.state_dict(), metadata)
    return path


#: What version 0.1 wrote: no sampling settings, and keys that the recipe has no more.
RECIPE_OF_0_1 = {
    "data": {"image_size": 8, "channels": 1, "mean": [0.3053], "std": [0.3761]},
    "diffusion": {
        "sigma_data": 0.5,
        "sigma_min": 0.02,
        "sigma_max": 80.0,
        "rho": 7.0,
        "sigma_shift": None,
    },
    "denoising": {
        "sampling_steps": 12,
        "guidance_scale": 3.0,
        "guidance_interval": [0.1, 2.0],
        "final_euler_step": False,
    },
    "consistency": {"num_stages": 6},
}


@pytest.fixture
def denoising(tmp_path: Path) -> LoadedGenerator:
    return load_generator(weights_file(tmp_path, "denoising"))


@pytest.fixture
def consistency(tmp_path: Path) -> LoadedGenerator:
    return load_generator(weights_file(tmp_path, "consistency"))


def test_images_are_bytes_of_the_recipes_shape(denoising: LoadedGenerator) -> None:
    samples = generate(denoising, LABELS, seed=0, batch_size=5)
    assert samples.images.shape == (5, 8, 8, 1)
    assert samples.images.dtype == np.uint8
    assert np.array_equal(samples.labels, LABELS)


@pytest.mark.parametrize("objective", ["denoising", "consistency"])
def test_a_sample_depends_on_its_place_and_not_on_the_batch(objective: str, tmp_path: Path) -> None:
    loaded = load_generator(weights_file(tmp_path, objective))
    whole = generate(loaded, LABELS, seed=4, batch_size=5).images.astype(int)
    parts = generate(loaded, LABELS, seed=4, batch_size=2).images.astype(int)
    assert np.abs(whole - parts).max() <= 1  # matrix products of other sizes round otherwise
    other = generate(loaded, LABELS, seed=5, batch_size=5).images.astype(int)
    assert np.abs(whole - other).max() > 5


def test_evaluations_are_counted(denoising: LoadedGenerator, consistency: LoadedGenerator) -> None:
    from epg.evaluation.costs import costs

    planned = costs(load_recipe("smoke"))["nfe_denoising"]
    assert generate(denoising, LABELS, seed=0, batch_size=5).nfe == planned
    sampling = denoising.sampling.changed(steps=32, guidance_scale=1.0)
    assert generate(denoising, LABELS, seed=0, batch_size=5, sampling=sampling).nfe == 63
    assert generate(consistency, LABELS, seed=0, batch_size=5).nfe == 1
    sampling = consistency.sampling.changed(steps=3)
    assert generate(consistency, LABELS, seed=0, batch_size=5, sampling=sampling).nfe == 3


def test_guidance_changes_images(denoising: LoadedGenerator) -> None:
    weak, strong = (
        generate(
            denoising,
            LABELS,
            seed=0,
            batch_size=5,
            sampling=denoising.sampling.changed(guidance_scale=scale),
        ).images
        for scale in (1.0, 4.0)
    )
    assert not np.array_equal(weak, strong)


@pytest.mark.parametrize(
    ("labels", "fragment"), [([10], "class 10"), ([-1], "class -1"), ([], "at least one")]
)
def test_labels_that_no_class_has_are_refused(
    denoising: LoadedGenerator, labels: list[int], fragment: str
) -> None:
    with pytest.raises(UserError, match=fragment):
        generate(denoising, np.array(labels), seed=0, batch_size=2)


def test_sampling_for_the_other_objective_is_refused(
    denoising: LoadedGenerator, consistency: LoadedGenerator
) -> None:
    with pytest.raises(UserError, match="trained as a denoising model"):
        generate(denoising, LABELS, seed=0, batch_size=2, sampling=consistency.sampling)


def test_sampling_travels_in_the_header(tmp_path: Path) -> None:
    for objective in ("denoising", "consistency"):
        loaded = load_generator(weights_file(tmp_path, objective))
        assert loaded.sampling == load_recipe("smoke").sampling(objective)
        assert loaded.sampling.objective == objective


def test_a_file_of_version_0_1_samples_as_its_recipe_says(tmp_path: Path) -> None:
    path = weights_file(tmp_path, "denoising", sampling=None, recipe=RECIPE_OF_0_1)
    loaded = load_generator(path)
    assert loaded.sampling == SamplingConfig(
        objective="denoising",
        steps=12,
        sigma_min=0.02,
        sigma_max=80.0,
        rho=7.0,
        sigma_shift=0.125,
        sigma_data=0.5,
        guidance_scale=3.0,
        guidance_interval=(0.1, 2.0),
        final_euler_step=False,
    )
    assert generate(loaded, LABELS, seed=0, batch_size=5).images.shape == (5, 8, 8, 1)
    path = weights_file(tmp_path, "consistency", sampling=None, recipe=RECIPE_OF_0_1)
    assert load_generator(path).sampling.steps == 1


@pytest.mark.parametrize(
    ("header", "fragment"),
    [
        ({"sampling": None, "recipe": {"data": {}}}, "'diffusion'"),
        ({"sampling": {"steps": 4}}, "objective"),
    ],
)
def test_a_file_that_does_not_say_how_to_sample_is_refused(
    tmp_path: Path, header: dict, fragment: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_generator(weights_file(tmp_path, "denoising", **header))
    text = str(caught.value)
    assert fragment in text
    assert "train it again" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [("embed_dim", 2**31), ("embed_dim", 4096), ("depth", 10**9), ("patch_size", 0)],
)
def test_a_header_that_asks_for_too_much_is_refused_before_there_is_memory_for_it(
    tmp_path: Path, key: str, value: int
) -> None:
    whole = load_generator(weights_file(tmp_path, "denoising")).metadata["generator_arguments"]
    arguments = {**whole, "encoder": {**whole["encoder"], key: value}}
    with pytest.raises(UserError, match="weights do not fit their own header"):
        load_generator(weights_file(tmp_path, "denoising", generator_arguments=arguments))


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = weights_file(tmp_path, "denoising")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="its tensors do not fit their digest"):
        load_generator(path)


def test_trajectory_runs_from_noise_to_the_image(
    denoising: LoadedGenerator, consistency: LoadedGenerator
) -> None:
    frames = trajectory(denoising, LABELS, seed=0, frames=4)
    assert frames.shape == (4, 5, 8, 8, 1)
    assert np.array_equal(frames[-1], generate(denoising, LABELS, seed=0, batch_size=5).images)
    assert trajectory(consistency, LABELS, seed=0).shape == (2, 5, 8, 8, 1)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model file"):
        load_generator(tmp_path / "absent.safetensors")
    pickled = tmp_path / "old.safetensors"
    torch.save({"w": torch.zeros(2)}, pickled)
    with pytest.raises(UserError, match="pickles are refused"):
        load_generator(pickled)
    encoder = tmp_path / "encoder.safetensors"
    save_weights(encoder, {"w": torch.zeros(2)}, {"kind": "encoder"})
    with pytest.raises(UserError, match="expected a model of kind 'generator', found 'encoder'"):
        load_generator(encoder)


def test_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (first, second):
        save_weights(path, {"b": torch.ones(2), "a": torch.zeros(3)}, {"kind": "x", "z": 1})
    assert first.read_bytes() == second.read_bytes()
    tensors, metadata = load_weights(first, "x")
    assert torch.equal(tensors["b"], torch.ones(2))
    assert metadata["z"] == 1


@pytest.mark.parametrize(
    ("recipe", "batch_size", "worth"),
    [("digits", 500, True), ("fashion", 500, True), ("imagenet256_l16", 64, False)],
)
def test_passes_of_small_networks_are_worth_a_graph(
    recipe: str, batch_size: int, worth: bool
) -> None:
    with torch.device("meta"):
        generator = Generator(**load_recipe(recipe).generator_arguments())
    assert worth_recording(generator, batch_size) is worth


def test_noise_of_a_sample_is_the_same_alone_and_among_many() -> None:
    shape, cpu = (3, 64, 64), torch.device("cpu")
    many = SeriesNoise(5, shape, 100, cpu).take(10, 90)  # drawn in several pieces
    for place in (0, 41, 42, 89):
        assert torch.equal(many[place], SeriesNoise(5, shape, 100, cpu).take(10 + place, 1)[0])
    assert not torch.equal(many[0], SeriesNoise(5, shape, 100, cpu).take(10, 1, step=1)[0])

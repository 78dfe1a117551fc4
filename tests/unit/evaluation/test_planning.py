"""Plans: the closed forms of training compute and memory, and what is said of what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from epg.config.loading import load_recipe
from epg.console.tables import plan_lines
from epg.errors import UserError
from epg.evaluation.gpus import GPUS, MEASURED_SHARES, SAMPLING_SHARES
from epg.evaluation.memory import (
    encoder_activations,
    generator_activations,
    training_memory,
)
from epg.evaluation.pace import pace
from epg.evaluation.planning import make_plan, training_gflops
from epg.model.encoder import Encoder
from epg.model.generator import Generator
from tests.toys.command import epg

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "activations", "state"), [("imagenet256_xl16", 37, 12), ("imagenet256_g16", 55, 29)]
)
def test_memory_of_128_images_is_what_was_extrapolated_from_measurements(
    name: str, activations: int, state: int
) -> None:
    memory = training_memory(load_recipe(name), "denoising", 128)
    assert memory.activations / GIB == pytest.approx(activations, abs=0.75)
    assert memory.state / GIB == pytest.approx(state, abs=0.6)
    assert memory.total == memory.state + memory.activations


def saved_bytes(module: torch.nn.Module, *inputs: Tensor) -> int:
    """What autograd really keeps for the backward pass, each storage once, weights left out."""
    kept: dict[int, int] = {}
    owned = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in owned:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(*inputs)  # alive until counted, or storages would be used again
    assert out is not None
    return sum(kept.values())


@pytest.fixture(scope="module")
def arguments() -> dict:
    changes = {
        "data.image_size": 32,
        "data.channels": 3,
        "data.mean": [0.5],
        "data.std": [0.5],
        "model.patch_size": 4,
        "model.embed_dim": 64,
        "model.depth": 4,
        "model.num_heads": 2,
        "model.decoder_embed_dim": 96,
    }
    return load_recipe("smoke", changes).generator_arguments()


def test_closed_form_of_the_encoder_is_near_what_autograd_keeps_in_float32(
    arguments: dict,
) -> None:
    encoder, images = Encoder(**arguments["encoder"]), 8
    kept = saved_bytes(encoder, torch.randn(images, 3, 32, 32), torch.zeros(images))
    assert images * encoder_activations(arguments["encoder"], 4) == pytest.approx(kept, rel=0.15)


def test_closed_form_of_the_generator_is_near_what_autograd_keeps_in_float32(
    arguments: dict,
) -> None:
    generator, images = Generator(**arguments), 8
    labels = torch.zeros(images, dtype=torch.int64)
    kept = saved_bytes(generator, torch.randn(images, 3, 32, 32), torch.zeros(images), labels)
    # Eager torch keeps what each LayerNorm gives to a modulation as well; fused, it does not.
    closed = images * generator_activations(arguments, 4)
    assert 0.8 < closed / kept < 1.1


def test_computing_blocks_again_keeps_far_less(arguments: dict) -> None:
    again = generator_activations(arguments, 2, again=True)
    assert again < 0.5 * generator_activations(arguments, 2)


def test_compute_of_a_training_by_hand() -> None:
    recipe = load_recipe("imagenet256_xl16")
    # Base encoder 23.29, projector 0.021, generator 131.285 GMACs; 2 FLOPs each.
    assert training_gflops(recipe, "pretrain") == pytest.approx(
        2 * (12 * 23.29 + 8 * 0.021), rel=1e-3
    )
    assert training_gflops(recipe, "denoising") == pytest.approx(6 * 131.285, rel=1e-4)
    auxiliary = 3 * (23.29 + 0.021)
    assert training_gflops(recipe, "consistency") == pytest.approx(
        2 * (4 * 131.285 + auxiliary), rel=1e-3
    )
    frozen = load_recipe("imagenet256_xl16", {"denoising.encoder_trainable": False})
    assert training_gflops(frozen, "denoising") == pytest.approx(
        2 * (3 * 131.285 - 23.29), rel=1e-3
    )
    scratch = load_recipe("imagenet256_xl16", {"pretrain.enabled": False})
    assert training_gflops(scratch, "consistency") == pytest.approx(8 * 131.285, rel=1e-4)


def test_a_plan_adds_up() -> None:
    recipe = load_recipe("imagenet256_xl16")
    plan = make_plan(recipe, gpus=8, gpu_type="h200", price=3.0, share=0.4)
    pretrain, denoising, consistency = plan.trainings
    assert denoising.images == 1_024_000_000
    assert denoising.epochs == pytest.approx(799.3, abs=0.1)
    seconds = 6e9 * 131.285 * denoising.images / (0.4 * 989e12)
    assert denoising.gpu_hours == pytest.approx(seconds / 3600, rel=1e-4)
    assert denoising.hours == denoising.gpu_hours / 8
    assert denoising.images_per_second == pytest.approx(denoising.images / denoising.hours / 3600)
    assert plan.gpu_hours == pretrain.gpu_hours + denoising.gpu_hours + consistency.gpu_hours
    assert plan.cost == pytest.approx(3.0 * plan.gpu_hours)
    assert denoising.checkpoint_bytes == 16 * 582_986_064  # weights, averages, two moments
    assert denoising.network_bytes_per_second == denoising.images_per_second * 3 * 256**2
    assert plan.dataset_bytes == 1_281_167 * 3 * 256**2
    json.dumps(plan.as_dict(), allow_nan=False)


def test_what_the_paper_took_is_what_its_share_of_the_peak_gives() -> None:
    recipe = load_recipe("imagenet256_xl16")
    hours = [
        make_plan(recipe, gpus=8, gpu_type="h200", share=share).trainings[i].hours
        for i, share in enumerate((0.21, 0.20))
    ]
    assert hours == pytest.approx([57, 139], rel=0.03)


def test_the_measured_shares_are_those_of_the_benchmarks() -> None:
    """And nobody has to keep them in step by hand."""
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    for row in json.loads((results / "train_step.json").read_text())["rows"]:
        gflops = training_gflops(load_recipe(row["model"].replace("-", "_")), row["stage"])
        share = row["images_per_second"] * gflops / 989e3
        assert MEASURED_SHARES[row["stage"]].value == pytest.approx(share, abs=0.001)
    row = json.loads((results / "sample.json").read_text())["rows"][0]
    plain = row["plain_images_per_second"] / row["images_per_second"] * row["tflops"]
    assert SAMPLING_SHARES["bfloat16"].value == pytest.approx(row["tflops"] / 989, abs=0.001)
    assert SAMPLING_SHARES["float32"].value == pytest.approx(plain / 989, abs=0.001)


def test_sampling_costs_what_its_numbers_take() -> None:
    hours = [
        make_plan(
            load_recipe("imagenet256_xl16", {"denoising.sampling_precision": numbers}),
            gpus=1,
            gpu_type="h100",
        ).sampling[0]["gpu_hours"]
        for numbers in ("float32", "bfloat16")
    ]
    assert hours == pytest.approx([7.1, 0.72], rel=0.02)


def test_what_does_not_fit_is_said_with_what_would() -> None:
    recipe = load_recipe("imagenet256_g16")
    plan = make_plan(recipe, gpus=8, gpu_type="h100")
    assert [t.fits for t in plan.trainings] == [True, False, False]
    lines = [line for line in plan_lines(plan) if "do not fit" in line]
    assert len(lines) == 2
    most = plan.trainings[1].most_images_per_gpu
    assert f"at most {most} images" in lines[0]
    for images, fits in ((most, True), (most + 1, False)):
        total = training_memory(recipe, "denoising", images).total
        assert (total <= 0.92 * 80e9) == fits
    more = make_plan(recipe, gpus=16, gpu_type="h100").trainings
    assert all(training.fits for training in more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gpu_type": "h1000"}, "--gpu-type h1000: unknown"),
        ({"gpus": 3}, "3 GPUs cannot share it evenly"),
        ({"share": 1.5}, "--share 1.5"),
        ({"price": -1.0}, "--price -1"),
    ],
)
def test_mistakes_are_refused_in_one_line(arguments: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make_plan(load_recipe("imagenet256_xl16"), **arguments)
    assert "\n" not in str(caught.value)


def test_a_measured_pace_stands_beside_the_plan_of_the_same_gpus() -> None:
    recipe = load_recipe("imagenet256_xl16")
    planned = make_plan(recipe, gpus=8, gpu_type="h100").trainings[1].images_per_second
    found = pace(recipe, "denoising", 2 * planned, "NVIDIA H100 80GB HBM3", 8)
    assert found.planned == pytest.approx(planned)
    assert found.share_of_peak == pytest.approx(2 * MEASURED_SHARES["denoising"].value)
    assert found.tflops == pytest.approx(2 * MEASURED_SHARES["denoising"].value * 8 * 989.0)
    assert pace(recipe, "denoising", 10.0, "cpu", 1).planned is None


def test_every_kind_of_gpu_is_offered() -> None:
    from epg.cli.costs import plan as command

    annotation = command.__annotations__["gpu_type"]
    assert all(name in str(annotation) for name in GPUS)


def test_a_plan_needs_no_torch_and_no_second(tmp_path) -> None:
    code = (
        "import sys; from epg.cli.app import app;"
        "app(['plan', '--recipe', 'imagenet256_g16', '--json'], standalone_mode=False);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    begun = time.process_time()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["recipe"] == "imagenet256_g16"
    assert time.process_time() - begun < 10


def test_count_gflops_as_json_has_the_published_rows_beside_ours(tmp_path) -> None:
    shown = epg(tmp_path, "count-gflops", "--recipe", "imagenet256_l16", "--json", toys=False)
    content = json.loads(shown.stdout)
    keys = {
        "objective",
        "params",
        "gmacs_forward",
        "gmacs_forward_without_attention",
        "nfe",
        "gmacs_per_image",
    }
    assert [row["objective"] for row in content["generators"]] == ["denoising", "consistency"]
    assert all(keys <= set(row) for row in content["generators"])
    tables = {row["table"] for row in content["published"]}
    assert tables == {"256", "256-few-steps"}
    assert all(row["source"] for row in content["published"])
    text = epg(tmp_path, "count-gflops", "--recipe", "imagenet512_l32", toys=False).stdout
    assert "EPG-L/32" in text
    assert "DiT-XL/2" in text

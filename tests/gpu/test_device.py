"""What only a GPU can show; skipped without one. `benchmarks/on_gpu.sh` runs it first."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.data.augment import draw_views, two_views, views_of
from epg.diffusion.seeds import SampleNoise
from epg.errors import UserError
from epg.evaluation.generate import GeneratedImages
from epg.evaluation.sample_noise import SeriesNoise
from epg.model.device import DETERMINISTIC_VARIABLE, prepare_device
from epg.model.files import LoadedGenerator
from epg.model.generator import Generator
from epg.model.precision import Precision
from epg.model.replay import Replayed
from epg.training import ranks
from epg.training.finetuning import Consistency, Denoising
from epg.training.place import Place
from epg.training.pretraining import Pretraining
from epg.training.step import Stepper
from epg.training.world import World

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

OBJECTIVES = ("pretrain", "denoising", "consistency")
CPU = torch.device("cpu")
COUNT = 64


@pytest.fixture(scope="module")
def device() -> torch.device:
    return prepare_device()


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """ImageNet's layout and the paper's shares in small: several heads, unequal widths."""
    changes: dict[str, Any] = {
        "data.channels": 3,
        "data.image_size": 32,
        "data.mean": [0.485, 0.456, 0.406],
        "data.std": [0.229, 0.224, 0.225],
        "data.horizontal_flip": True,
        "model.patch_size": 4,
        "model.embed_dim": 192,
        "model.num_heads": 3,
        "model.depth": 3,
        "model.decoder_embed_dim": 256,
        "model.decoder_num_heads": 4,
        "consistency.dropout": 0.5,
        **{f"{name}.batch_size": COUNT for name in OBJECTIVES},
        **{f"{name}.warmup_steps": 0 for name in OBJECTIVES},
    }
    return load_recipe("smoke", changes)


def batch(device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (COUNT, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return images.to(device), (torch.arange(COUNT) % 10).to(device)


def built(
    name: str,
    recipe: Recipe,
    device: torch.device,
    numbers: Any = "float32",
    compiles: bool = False,
) -> tuple[Any, Precision]:
    precision = Precision(numbers, name, device)
    precision.compiles = compiles
    world = World.single(device)
    stage1 = Pretraining(recipe, CPU)
    encoder, projector = stage1.encoder.state_dict(), stage1.projector.state_dict()
    objective: Any
    if name == "pretrain":
        objective = Pretraining(recipe, device, world, precision)
    elif name == "denoising":
        objective = Denoising(recipe, encoder, device, world, precision)
    else:
        objective = Consistency(recipe, encoder, projector, device, world, precision)
    with torch.no_grad():  # off the zero start
        for parameter in objective.network.parameters():
            generator = torch.Generator().manual_seed(2)
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * noise.to(parameter.device))
    return objective, precision


def gradients(
    name: str, recipe: Recipe, device: torch.device, *more: Any, **also: Any
) -> tuple[float, Tensor]:
    objective, precision = built(name, recipe, device, *more, **also)
    terms = objective.losses(*batch(device), 3).terms
    loss = torch.stack(list(terms.values())).sum()
    precision.scaler.scale(loss).backward()
    scale = precision.scaler.get_scale() if precision.scaler.is_enabled() else 1.0
    parts = [p.grad.flatten() / scale for p in objective.network.parameters() if p.grad is not None]
    return float(loss), torch.cat(parts).cpu()


def apart(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_images_and_noise_give_the_cpu_s_loss_and_gradient(
    name: str, recipe: Recipe, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random numbers are drawn on the CPU here, where they are others."""

    def noise(self: World, seed: int, stage: str, step: int, local: Tensor, *part: int) -> Any:
        drawn = SampleNoise(seed, stage, step, 0, len(local))

        class Moved:
            first = 0

            def normal(self, *args: Any, **kwargs: Any) -> Tensor:
                return drawn.normal(*args, **kwargs).to(local.device)

            def uniform(self, *args: Any, **kwargs: Any) -> Tensor:
                return drawn.uniform(*args, **kwargs).to(local.device)

        return Moved()

    monkeypatch.setattr(World, "noise", noise)
    expected, theirs = gradients(name, recipe, CPU)
    loss, ours = gradients(name, recipe, device)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert apart(ours, theirs) < 2e-2  # TF32 is off; BatchNorm stretches what is left


@pytest.mark.parametrize("name", OBJECTIVES)
def test_compiled_blocks_equal_eager_ones(name: str, recipe: Recipe, device: torch.device) -> None:
    loss, ours = gradients(name, recipe, device, compiles=True)
    expected, theirs = gradients(name, recipe, device)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert apart(ours, theirs) < (2e-2 if name == "pretrain" else 1e-3)


@pytest.mark.parametrize(
    ("name", "bound"), [("pretrain", 0.3), ("denoising", 0.05), ("consistency", 0.05)]
)
def test_automatic_precision_stays_near_float32(
    name: str, bound: float, recipe: Recipe, device: torch.device
) -> None:
    loss, ours = gradients(name, recipe, device, "auto", compiles=True)
    expected, theirs = gradients(name, recipe, device)
    assert loss == pytest.approx(expected, rel=0.05)
    assert apart(ours, theirs) < bound


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_step_waits_for_the_device(name: str, recipe: Recipe, device: torch.device) -> None:
    objective, precision = built(name, recipe, device, "auto", compiles=True)
    stepper = Stepper(objective, getattr(recipe, name), World.single(device), precision)
    images, labels = batch(device)
    for step in range(3):
        assert stepper.step(images, labels, step) is None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3, 6):
            stepper.step(images, labels, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    row = stepper.row(5)
    assert row["step"] == 6
    assert row["loss"] > 0


@pytest.mark.parametrize("numbers", ["float32", "bfloat16", "float16"])
def test_a_step_that_is_not_finite_changes_no_weight_and_is_told(
    numbers: str, recipe: Recipe, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, precision = built("denoising", recipe, device, numbers)
    stepper = Stepper(objective, recipe.denoising, World.single(device), precision)
    images, labels = batch(device)
    for step in range(8):  # a scaler finds its scale first
        stepper.step(images, labels, step)
    stepper.row(7)
    weights = copy.deepcopy(objective.network.state_dict())
    losses = objective.losses

    def broken(*args: Any) -> Any:
        found = losses(*args)
        return type(found)({k: v * float("nan") for k, v in found.terms.items()}, found.observed)

    whole: Any = stepper._losses
    whole._losses = broken
    stepper.step(images, labels, 8)
    for name, tensor in objective.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert all(t.isfinite().all() for t in objective.ema.state_dict().values())
    whole._losses = losses
    stepper.step(images, labels, 9)
    with pytest.raises(UserError, match="step 9: the loss or its gradient is not finite"):
        stepper.row(9)


def test_two_trainings_are_equal_bit_for_bit(recipe: Recipe, device: torch.device) -> None:
    def train() -> Tensor:
        objective, precision = built("denoising", recipe, device, "auto", compiles=True)
        stepper = Stepper(objective, recipe.denoising, World.single(device), precision)
        for step in range(5):
            stepper.step(*batch(device), step)
        return torch.cat([p.detach().flatten() for p in objective.network.parameters()])

    assert torch.equal(train(), train())


@pytest.fixture
def strictly(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(DETERMINISTIC_VARIABLE, "1")
    prepare_device()
    yield
    monkeypatch.delenv(DETERMINISTIC_VARIABLE)
    prepare_device()


@pytest.mark.usefixtures("strictly")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_stage_is_equal_bit_for_bit_where_that_is_asked_for(
    name: str, recipe: Recipe, device: torch.device
) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()

    def train() -> Tensor:
        objective, precision = built(name, recipe, device, "auto", compiles=True)
        stepper = Stepper(objective, getattr(recipe, name), World.single(device), precision)
        for step in range(5):
            stepper.step(*batch(device), step)
        return torch.cat([p.detach().flatten() for p in objective.network.parameters()])

    assert torch.equal(train(), train())


def test_compiled_views_equal_plain_ones(recipe: Recipe, device: torch.device) -> None:
    images, _ = batch(device)
    random = SampleNoise(0, "views", 1, 0, COUNT, device)
    config = recipe.pretrain.augmentation
    precision = Precision.full(device)
    assert precision.compiles
    found = precision.fused(views_of)(images, draw_views(random), config, True, 0)
    wanted = two_views(images, config, True, random)
    for ours, theirs in zip(found, wanted, strict=True):
        # A pixel at the threshold of solarize may fall on either side of it.
        assert ((ours - theirs).abs() > 1e-5).float().mean() < 1e-4


@torch.inference_mode()
def test_a_recorded_pass_gives_the_same_bits_and_keeps_earlier_results(
    recipe: Recipe, device: torch.device
) -> None:
    torch.manual_seed(0)
    network = Generator(**recipe.generator_arguments()).to(device).eval()
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    call = Precision("bfloat16", "denoising", device).network(network)
    replayed = Replayed(call)

    def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(count, 3, 32, 32, device=device)
        level = torch.rand(count, device=device)
        return x, level, torch.arange(count, device=device) % 10

    kept = []
    for round_ in range(5):
        for count in (8, 16):
            given = inputs(count)
            kept.append((replayed(*given), call(*given)))
        assert replayed.recorded == (0 if round_ < 2 else 2)
    replayed(*inputs(3))  # a last part of a batch: not recorded
    assert replayed.recorded == 2
    for found, wanted in kept:
        assert torch.equal(found, wanted)


def test_noise_is_the_cpu_s_also_where_it_was_drawn_ahead(device: torch.device) -> None:
    ahead = SeriesNoise(5, (3, 8, 8), 100, device)
    plain = SeriesNoise(5, (3, 8, 8), 100, CPU)
    for first, count in ((0, 32), (32, 32), (64, 32), (96, 4), (0, 32), (64, 32), (90, 10)):
        assert torch.equal(ahead.take(first, count).cpu(), plain.take(first, count))
    assert not torch.equal(ahead.take(0, 32, 1).cpu(), plain.take(0, 32))


@pytest.mark.parametrize("objective", ["denoising", "consistency"])
def test_a_long_series_is_the_short_one_continued(
    objective: Any, recipe: Recipe, device: torch.device
) -> None:
    """From 1,000 images on blocks are compiled and passes recorded."""
    torch.manual_seed(0)
    network = Generator(**recipe.generator_arguments()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))

    def series(count: int) -> GeneratedImages:
        loaded = LoadedGenerator(
            generator=copy.deepcopy(network),
            recipe=recipe.model_dump(mode="json"),
            objective=objective,
            classes=[str(i) for i in range(10)],
            sampling=recipe.sampling(objective),
            metadata={},
        )
        labels = np.arange(count) % 10
        return GeneratedImages(loaded, labels, seed=3, batch_size=32, device=device)

    many, few = series(1000), series(160)
    found, wanted = many.read(0, 160), few.read(0, 160)
    assert many.nfe == few.nfe
    assert (found.int() - wanted.int()).abs().float().mean() < 0.05


@pytest.fixture
def alone_by_nccl(device: torch.device) -> Iterator[World]:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ranks.joined(Place(0, 1, 0, 1), store, device) as world:
        yield world


def test_nccl_and_gloo_carry_what_they_should(
    alone_by_nccl: World, device: torch.device, recipe: Recipe
) -> None:
    """One process of one: what may be run on a single GPU of several ranks' code."""
    world = alone_by_nccl
    x = torch.randn(4, 3, device=device, requires_grad=True)
    assert torch.equal(world.gather(x), x)
    assert torch.equal(world.reduce(x), x)
    world.total(x).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * x)
    assert world.decide(7) == 7
    precision = Precision("auto", "denoising", device)
    stage1 = Pretraining(recipe, CPU)
    objective = Denoising(recipe, stage1.encoder.state_dict(), device, world, precision)
    stepper = Stepper(objective, recipe.denoising, world, precision)
    for step in range(3):
        stepper.step(*batch(device), step)
    assert stepper.row(2)["loss"] > 0

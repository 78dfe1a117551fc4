"""The recipes of the paper's models: its hyper-parameters, exact sizes, counts on meta tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from epg.config.loading import available_recipes, load_recipe
from epg.config.recipe import Recipe
from epg.evaluation.costs import generators
from epg.model.generator import Generator
from epg.published import PUBLISHED
from epg.training.schedules import learning_rate_at, stage_at


class Printed(NamedTuple):
    """GMACs as docs/method.md prints them, in section 7, and where the sampler's NFE is from."""

    parameters: int
    full: float
    paper: float | None
    epochs: int
    nfe: int = 75
    guidance: float = 2.5


PAPER = {
    "imagenet256_b16": Printed(228_911_616, 50.28, 47.88, 800),
    "imagenet256_l16": Printed(540_215_040, 117.41, 113.15, 800),
    "imagenet256_xl16": Printed(582_986_064, 131.29, 127.63, 800),
    "imagenet256_xxl16": Printed(788_921_472, 180.16, 175.98, 800),
    "imagenet256_g16": Printed(1_391_899_008, 325.99, 320.62, 1600),
    "imagenet512_l32": Printed(544_935_936, 118.62, 114.36, 800, guidance=3.2),
    "imagenet224_b16": Printed(228_865_536, 38.16, None, 800, nfe=63, guidance=1.0),
}


@pytest.fixture(params=list(PAPER))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recipe(name: str) -> Recipe:
    return load_recipe(name)


def test_every_model_of_the_paper_is_there() -> None:
    assert set(PAPER) <= set(available_recipes())
    sizes = {row.parameters for row in PUBLISHED if row.parameters}
    assert sizes <= {printed.parameters for printed in PAPER.values()}


def test_sizes_and_costs_are_the_printed_ones(name: str, recipe: Recipe) -> None:
    printed = PAPER[name]
    denoising, consistency = generators(recipe)
    assert denoising["params"] == consistency["params"] == printed.parameters
    assert denoising["gmacs_forward"] == pytest.approx(printed.full, abs=0.0051)
    if printed.paper is not None:
        assert denoising["gmacs_paper"] == pytest.approx(printed.paper, abs=0.0051)
    assert (denoising["nfe"], consistency["nfe"]) == (printed.nfe, 1)
    for row in (denoising, consistency):
        assert row["gmacs_per_image"] == row["nfe"] * row["gmacs_forward"]
        assert row["gflops_per_image"] == 2 * row["gmacs_per_image"]
        assert row["gmacs_forward_without_attention"] < row["gmacs_paper"] < row["gmacs_forward"]


def test_torchs_counter_agrees_within_half_a_percent(name: str, recipe: Recipe) -> None:
    size = recipe.data.image_size
    with torch.device("meta"):
        generator = Generator(**recipe.generator_arguments()).eval()
        inputs = torch.empty(1, 3, size, size), torch.empty(1), torch.zeros(1, dtype=torch.int64)
    assert sum(p.numel() for p in generator.parameters()) == PAPER[name].parameters
    with FlopCounterMode(display=False) as counter:
        generator(*inputs)
    counted = counter.get_total_flops() / 2e9
    assert generators(recipe)[0]["gmacs_forward"] == pytest.approx(counted, rel=0.005)


def test_levels_and_shift(recipe: Recipe) -> None:
    diffusion = recipe.diffusion
    assert recipe.sigma_shift == recipe.data.image_size / 64
    levels = (diffusion.sigma_data, diffusion.sigma_min, diffusion.sigma_max, diffusion.rho)
    assert levels == (0.5, 0.002, 80.0, 7.0)


def test_stage_1_is_the_papers(recipe: Recipe) -> None:
    settings, model = recipe.pretrain, recipe.model
    assert (settings.steps, settings.batch_size) == (600_000, 1024)
    assert settings.learning_rate == 1.5e-4 * settings.batch_size / 256
    assert (settings.warmup_steps, settings.decay) == (10_000, "cosine")
    assert (settings.betas, settings.weight_decay) == ((0.9, 0.95), 0.03)
    assert settings.grad_clip is None
    assert (settings.num_scales_start, settings.num_scales_end) == (20, 1280)
    assert settings.target_ema_decay == 0.99
    assert settings.temperature_contrastive == 0.2
    taus = (settings.temperature_consistency, settings.temperature_consistency_start)
    assert taus == (0.1, 0.2)
    assert settings.contrastive_weight == settings.consistency_weight == 1.0
    views = settings.augmentation
    assert (views.crop_scale_min, views.color_jitter) == (0.08, (0.4, 0.4, 0.2, 0.1))
    assert (views.color_jitter_prob, views.grayscale_prob) == (0.8, 0.2)
    assert (views.blur_sigma, views.blur_prob) == ((0.1, 2.0), (1.0, 0.1))
    assert views.solarize_prob == (0.0, 0.2)
    assert (model.projector_hidden_dim, model.projector_dim) == (4096, 256)
    assert learning_rate_at(settings.steps, settings) == pytest.approx(0, abs=1e-12)


def test_denoising_is_the_papers(name: str, recipe: Recipe) -> None:
    settings, printed = recipe.denoising, PAPER[name]
    # 800 epochs are told as 1,000,000 steps of 1024 images.
    assert settings.steps == 1_250 * printed.epochs
    assert settings.batch_size == 1024
    assert (settings.learning_rate, settings.warmup_steps) == (1e-4, 10_000)
    assert (settings.decay, settings.betas) == ("cosine", (0.9, 0.999))
    assert (settings.weight_decay, settings.grad_clip) == (0.01, 0.5)
    assert (settings.sigma_log_mean, settings.sigma_log_std) == (-1.2, 1.6)
    assert (settings.num_scales, settings.class_dropout_prob) == (1280, 0.1)
    assert (settings.ema_decays, settings.ema_warmup) == ((0.9999,), False)
    assert (settings.sampling_steps, settings.guidance_scale) == (32, printed.guidance)
    assert settings.guidance_interval == (0.19, 1.61)
    assert settings.final_euler_step
    assert (settings.encoder_trainable, settings.layer_decay) == (True, 1.0)


def test_consistency_is_the_papers(recipe: Recipe) -> None:
    settings = recipe.consistency
    assert (settings.steps, settings.batch_size) == (700_000, 1024)
    assert (settings.betas, settings.weight_decay) == ((0.9, 0.99), 0.03)
    assert settings.grad_clip is None
    assert (settings.sigma_log_mean, settings.sigma_log_std) == (-0.4, 1.6)
    assert (settings.ratio_base, settings.huber_c, settings.dropout) == (2.0, 0.06, 0.5)
    assert (settings.auxiliary_weight, settings.auxiliary_temperature) == (1.0, 0.1)
    assert settings.ema_decays == (0.9999,)
    assert stage_at(settings.steps - 1, settings.steps_per_stage) == 7
    for step, factor in (
        (9_999, 1.0),
        (399_999, 1.0),
        (400_000, 0.3),
        (499_999, 0.3),
        (500_000, 0.08),
        (699_999, 0.08),
    ):
        assert learning_rate_at(step, settings) == pytest.approx(1e-4 * factor)


# --- DiT-XL/2, written from its description, through the same counter ----------------------


class DiTBlock(nn.Module):
    """adaLN-Zero block: six modulations from the condition, attention with biases, MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        b1, a1, g1, b2, a2, g2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x) * (1 + a1) + b1)
        q, k, v = (
            part.reshape(batch, tokens, self.heads, -1).transpose(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + g1 * self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + g2 * self.mlp(self.norm(x) * (1 + a2) + b2)


class DiT(nn.Module):
    """28 blocks of width 1152 on patches of 2x2 latents; mean and variance come out."""

    def __init__(self) -> None:
        super().__init__()
        width = 1152
        self.patches = nn.Conv2d(4, width, 2, stride=2)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(DiTBlock(width, 16) for _ in range(28))
        self.last = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = nn.Linear(width, 2 * 4 * 2**2)

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        x = self.patches(latents).flatten(2).transpose(1, 2)
        condition = self.time(time)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.last(condition)[:, None].chunk(2, dim=-1)
        out: Tensor = self.out(self.norm(x) * (1 + scale) + shift)
        return out


@pytest.mark.parametrize(("side", "gmacs"), [(32, 118.62), (64, 524.54)])
def test_the_same_counter_gives_dit_xl_2_its_figure(side: int, gmacs: float) -> None:
    with torch.device("meta"):
        model: Any = DiT().eval()
        inputs = torch.empty(1, 4, side, side), torch.empty(1, 256)
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.01)

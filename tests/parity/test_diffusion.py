"""Schedule, preconditioning, guidance and samplers against closed forms."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epg.config.sampling import SamplingConfig
from epg.data.augment import to_float, to_uint8, valid_range
from epg.diffusion.denoisers import add_noise, denoise_consistently, denoise_directly
from epg.diffusion.plan import Visit, evaluations, is_guided, sampling_steps, sigma_levels
from epg.diffusion.preconditioning import c_in, c_noise, c_out, c_skip
from epg.diffusion.samplers import CountingDenoiser, consistency, heun
from epg.diffusion.schedule import nearest_levels, num_scales_at, sigma_grid

PAPER = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


def sigma(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_grid_of_32_levels() -> None:
    grid = sigma_grid(32, **PAPER)
    expected = {0: 80.0, 16: 2.17386, 17: 1.60857, 22: 0.28304, 23: 0.18860, 31: 0.002}
    for index, value in expected.items():
        assert float(grid[index]) == pytest.approx(value, abs=6e-6)


def formula(i: int, count: int, low: float, high: float, rho: float) -> float:
    return (high ** (1 / rho) + i / (count - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(2, 5000),
    low=st.floats(1e-4, 0.1),
    high=st.floats(0.5, 1000),
    rho=st.floats(1, 12),
)
@example(count=1281, low=0.002, high=80.0, rho=7.0)
def test_grid_descends_strictly_from_end_to_end(
    count: int, low: float, high: float, rho: float
) -> None:
    levels = sigma_levels(count, low, high, rho)
    assert len(levels) == count
    assert (levels[0], levels[-1]) == (high, low)
    assert all(above > below for above, below in pairwise(levels))
    for i in {1, count // 3, count - 2} - {0, count - 1}:
        assert levels[i] == pytest.approx(formula(i, count, low, high, rho), rel=1e-12)


def test_every_grid_of_the_paper_descends() -> None:
    for count in range(2, 1282):
        grid = sigma_grid(count, **PAPER)
        assert grid.dtype == torch.float64
        assert grid.tolist() == sigma_levels(count, **PAPER)
        assert (grid[1:] < grid[:-1]).all(), count


def test_number_of_scales_doubles_at_the_published_steps() -> None:
    total = 600_000
    expected = {0: 21, 1: 41, 99_629: 41, 99_630: 81, 199_259: 161, 298_888: 321}
    expected |= {398_517: 641, 498_146: 1281, 600_000: 1281}
    for step, count in expected.items():
        assert num_scales_at(step, total, 20, 1280) == count


def test_nearest_level_agrees_with_a_full_search() -> None:
    grid = sigma_grid(64, **PAPER)
    drawn = torch.exp(torch.linspace(-8, 6, 500, dtype=torch.float64))
    brute = (drawn[:, None] - grid[None]).abs().argmin(1)
    assert torch.equal(nearest_levels(drawn, grid), brute)


def test_input_scaling_and_time_at_shift_four() -> None:
    assert float(c_in(4 * sigma(2.5), 0.5)) == pytest.approx(0.0998752, abs=1e-7)
    assert float(c_in(4 * sigma(80), 0.5)) == pytest.approx(0.00312500, abs=1e-8)
    assert float(c_noise(4 * sigma(0.002))) == pytest.approx(-1207.078, abs=1e-3)
    assert float(c_noise(4 * sigma(80))) == pytest.approx(1442.080, abs=1e-3)


def test_consistency_boundary_values() -> None:
    floor = 0.008
    shift = 4.0
    assert float(c_skip(sigma(floor), floor, 0.5)) == 1.0
    assert float(c_out(sigma(floor), floor, 0.5)) == 0.0
    assert float(c_skip(shift * sigma(0.5), floor, 0.5)) == pytest.approx(0.0592689, abs=1e-7)
    assert float(c_out(shift * sigma(0.5), floor, 0.5)) == pytest.approx(0.4831310, abs=1e-7)
    assert float(c_out(shift * sigma(80), floor, 0.5)) == pytest.approx(0.4999869, abs=1e-7)


def test_consistency_model_is_the_identity_at_the_floor() -> None:
    x = torch.randn(3, 1, 4, 4)
    floor = torch.full((3,), 0.008, dtype=torch.float64)
    labels = torch.zeros(3, dtype=torch.int64)
    out = denoise_consistently(lambda s, _c, _y: 7.0 + s, x, floor, labels, 0.5, 0.008)
    assert torch.equal(out, x)


def test_direct_prediction_is_the_network_itself() -> None:
    x, level = torch.randn(2, 1, 4, 4), torch.full((2,), 3.0, dtype=torch.float64)
    seen = {}

    def network(scaled: torch.Tensor, noise: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        seen["scaled"], seen["noise"] = scaled, noise
        return torch.ones_like(scaled)

    out = denoise_directly(network, x, level, torch.zeros(2, dtype=torch.int64), 0.5)
    assert torch.equal(out, torch.ones_like(x))
    torch.testing.assert_close(seen["scaled"], x / math.sqrt(9.25))
    torch.testing.assert_close(seen["noise"], torch.full((2,), 250 * math.log(3.0)).double())


def test_noise_is_scaled_per_image() -> None:
    noise = torch.randn(2, 1, 4, 4)
    out = add_noise(torch.zeros(2, 1, 4, 4), noise, torch.tensor([1.0, 3.0]).double())
    torch.testing.assert_close(out[1], 3 * noise[1])


# --- samplers -------------------------------------------------------------------------------

STD, MEAN = 0.5, 0.2


def gaussian_denoiser(x: torch.Tensor, level: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """The exact denoiser of N(MEAN, STD^2) pixels."""
    level = level.reshape(-1, 1, 1, 1).to(x.dtype)
    return (STD**2 * x + level**2 * MEAN) / (STD**2 + level**2)


INTERVAL = (0.19, 1.61)


def sampling(objective: str = "denoising", **changes: Any) -> SamplingConfig:
    content = {"objective": objective, "steps": 32, "sigma_shift": 1.0, "sigma_data": 0.5, **PAPER}
    return SamplingConfig.model_validate(content | changes)


def run_heun(
    steps: int, final: bool = True, solver: str = "heun"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and images, float64, without guidance."""
    noise = torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(4, 1, 4, 4)
    config = sampling(steps=steps, final_euler_step=final, solver=solver)
    labels = torch.zeros(4, dtype=torch.int64)
    denoiser = CountingDenoiser(gaussian_denoiser, labels, 1, config, None)
    return noise, heun(denoiser, noise, config)[0]


def exact_flow(noise: torch.Tensor, end: float) -> torch.Tensor:
    """Closed-form end of the probability flow from sigma_max to `end`."""
    start = 80.0
    scale = math.sqrt((STD**2 + end**2) / (STD**2 + start**2))
    return MEAN + scale * (start * noise - MEAN)


@pytest.mark.parametrize(("solver", "factor"), [("heun", 4.0), ("euler", 2.0)])
def test_order_of_the_solvers_on_gaussian_data(solver: str, factor: float) -> None:
    errors = []
    for steps in (33, 65, 129):
        noise, images = run_heun(steps, final=False, solver=solver)
        errors.append(float((images - exact_flow(noise, 0.002)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(factor, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(factor, rel=0.25)


def test_eulers_method_by_hand() -> None:
    config = sampling(steps=3, solver="euler", sigma_shift=2.0)
    noise, labels = torch.randn(2, 1, 4, 4), torch.tensor([0, 0])
    images, nfe = heun(CountingDenoiser(gaussian_denoiser, labels, 1, config, None), noise, config)
    levels = [2.0 * level for level in sigma_levels(3, **PAPER)]
    x = levels[0] * noise
    for level, lower in pairwise(levels):
        x = x + (lower - level) * (x - gaussian_denoiser(x, sigma(level), labels)) / level
    torch.testing.assert_close(images, gaussian_denoiser(x, sigma(levels[-1]), labels))
    assert nfe == 3


@pytest.mark.parametrize(
    ("scale", "interval", "final", "nfe", "solver"),
    [
        (2.5, INTERVAL, True, 75, "heun"),
        (2.5, INTERVAL, False, 74, "heun"),
        (2.5, (0.0, 100.0), True, 126, "heun"),
        (2.5, (0.0, 100.0), False, 124, "heun"),
        (1.0, INTERVAL, True, 63, "heun"),
        (1.0, INTERVAL, False, 62, "heun"),
        (2.5, INTERVAL, True, 38, "euler"),  # 32 levels, six of them guided
        (1.0, INTERVAL, False, 31, "euler"),
    ],
)
def test_evaluations_are_what_the_network_sees(
    scale: float, interval: tuple[float, float], final: bool, nfe: int, solver: str
) -> None:
    config = sampling(
        guidance_scale=scale,
        guidance_interval=interval,
        final_euler_step=final,
        sigma_shift=4.0,
        solver=solver,
    )
    batch, passes = 2, []

    def spy(x: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        passes.append((float(level[0]), len(x) // batch))
        return gaussian_denoiser(x, level, labels)

    denoiser = CountingDenoiser(spy, torch.tensor([0, 1]), 9, config, None)
    counted = heun(denoiser, torch.randn(batch, 1, 4, 4), config)[1]
    assert sum(images for _, images in passes) == nfe  # seen by D, whatever the sampler says
    assert counted == nfe
    steps = sampling_steps(config)
    assert evaluations(steps) == nfe
    visits = [visit for step in steps for visit in (step.start, step.end) if visit]
    assert passes == [(4.0 * visit.sigma, visit.nfe) for visit in visits]


def test_guided_levels_are_17_to_22() -> None:
    config = sampling(guidance_scale=2.5, guidance_interval=INTERVAL)
    levels = sigma_levels(32, **PAPER)
    guided = [i for i, sigma in enumerate(levels) if is_guided(sigma, config)]
    assert guided == list(range(17, 23))
    visited = {v.sigma: v.guided for s in sampling_steps(config) for v in (s.start, s.end) if v}
    assert [levels.index(sigma) for sigma, yes in visited.items() if yes] == guided


def test_guidance_interval_is_open_below_and_closed_above() -> None:
    config = sampling(guidance_scale=2.0, guidance_interval=(0.5, 2.0))
    assert [is_guided(s, config) for s in (0.5, 0.5000001, 2.0, 2.0000001)] == [0, 1, 1, 0]


def labelled(x: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return gaussian_denoiser(x, level, labels) + 0.01 * labels.reshape(-1, 1, 1, 1)


def test_guidance_scale_one_equals_conditional_bit_for_bit() -> None:
    noise, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    config = sampling(steps=16, guidance_scale=1.0, guidance_interval=(0.0, 100.0))
    seen = []

    def spy(x: torch.Tensor, level: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y)
        return labelled(x, level, y)

    images, _ = heun(CountingDenoiser(spy, labels, 4, config, None), noise, config)
    assert all(torch.equal(y, labels) for y in seen)  # conditional passes alone
    unguided = sampling(steps=16, guidance_interval=(0.0, 1e-9))
    plain = CountingDenoiser(labelled, labels, 4, unguided, None)
    assert torch.equal(images, heun(plain, noise, unguided)[0])


def test_no_unconditional_pass_outside_the_interval() -> None:
    seen: list[tuple[float, int]] = []

    def spy(x: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((float(level[0]), int((labels == 9).sum())))
        return gaussian_denoiser(x, level, labels)

    config = sampling(guidance_scale=2.0, guidance_interval=INTERVAL)
    denoiser = CountingDenoiser(spy, torch.tensor([0, 1]), 9, config, None)
    heun(denoiser, torch.randn(2, 1, 4, 4), config)
    for level, unconditional in seen:
        assert unconditional == (2 if INTERVAL[0] < level <= INTERVAL[1] else 0)


def test_guidance_extrapolates_from_the_unconditional_estimate() -> None:
    x = torch.zeros(1, 1, 2, 2)
    denoiser = CountingDenoiser(labelled, torch.tensor([3]), 1, sampling(guidance_scale=2.5), None)
    base = gaussian_denoiser(x, sigma(1.0), torch.tensor([0]))
    guided = denoiser(x, Visit(1.0, guided=True))
    torch.testing.assert_close(guided, base + 0.01 * (1 + 2.5 * (3 - 1)))


def test_consistency_sampler_jumps_from_each_of_its_levels() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    fresh = [torch.randn(4, 1, 4, 4) for _ in range(3)]
    for steps, levels in ((1, [80.0]), (2, [80.0, 0.8]), (3, [80.0, 2.5, 0.8])):
        config = sampling("consistency", steps=steps, sigma_shift=2.0)
        inputs: list[tuple[torch.Tensor, float]] = []

        def spy(
            x: torch.Tensor, level: torch.Tensor, y: torch.Tensor, inputs: list = inputs
        ) -> torch.Tensor:
            inputs.append((x, float(level[0])))
            return gaussian_denoiser(x, level, y)

        denoiser = CountingDenoiser(spy, labels, 4, config, None)
        images, counted = consistency(denoiser, fresh.__getitem__, config)
        assert counted == len(inputs) == evaluations(sampling_steps(config)) == steps
        assert [level for _, level in inputs] == [2.0 * level for level in levels]
        before = torch.zeros_like(fresh[0])
        for (x, level), noise in zip(inputs, fresh, strict=False):
            torch.testing.assert_close(x, before + level * noise)
            before = gaussian_denoiser(x, sigma(level), labels)
        torch.testing.assert_close(images, before)


def test_estimates_are_clamped_per_channel() -> None:
    low, high = torch.tensor([-0.1, -0.2]), torch.tensor([0.1, 0.2])
    denoiser = CountingDenoiser(lambda x, _s, _y: x, torch.tensor([0]), 1, sampling(), (low, high))
    out = denoiser(torch.tensor([-5.0, 5.0]).reshape(1, 2, 1, 1), Visit(1.0, guided=False))
    torch.testing.assert_close(out.flatten(), torch.tensor([-0.1, 0.2]))


def test_black_and_white_survive_the_clamp_and_white_would_not_survive_one_to_one() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 4, 4, 3)
    images = to_float(pixels, mean, std)
    level = Visit(1.0, guided=False)

    def clamped(clamp: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        beyond = CountingDenoiser(
            lambda x, _s, _y: 1.5 * x, torch.tensor([0, 1]), 2, sampling(), clamp
        )
        return to_uint8(beyond(images, level), mean, std)

    assert torch.equal(clamped(valid_range(mean, std)), pixels)
    ones = torch.ones(3)
    black, white = clamped((-ones, ones))
    assert white[0, 0].tolist() == [240, 231, 218]  # 255 times (0.943, 0.904, 0.856)
    assert black[0, 0].tolist() == [7, 2, 0]

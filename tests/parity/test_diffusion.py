"""Schedule, preconditioning, guidance and samplers against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from epg.diffusion.denoisers import add_noise, denoise_consistently, denoise_directly
from epg.diffusion.plan import heun_nfe
from epg.diffusion.preconditioning import c_in, c_noise, c_out, c_skip
from epg.diffusion.samplers import CountingDenoiser, Guidance, consistency, heun
from epg.diffusion.schedule import nearest_levels, num_scales_at, sigma_grid

PAPER = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


def sigma(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_grid_of_32_levels() -> None:
    grid = sigma_grid(32, **PAPER)
    expected = {0: 80.0, 16: 2.17386, 17: 1.60857, 22: 0.28304, 23: 0.18860, 31: 0.002}
    for index, value in expected.items():
        assert float(grid[index]) == pytest.approx(value, abs=6e-6)


@pytest.mark.parametrize("count", [2, 3, 21, 41, 1281])
def test_grid_descends_strictly(count: int) -> None:
    grid = sigma_grid(count, **PAPER)
    assert len(grid) == count
    assert (grid[1:] < grid[:-1]).all()


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


def run_heun(steps: int, guidance: Guidance | None = None, shift: float = 1.0, final: bool = True):
    noise = torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(4, 1, 4, 4)
    labels = torch.zeros(4, dtype=torch.int64)
    denoiser = CountingDenoiser(gaussian_denoiser, labels, guidance, shift, None)
    images, nfe = heun(
        denoiser, noise, steps=steps, sigma_shift=shift, final_euler_step=final, **PAPER
    )
    return noise, images, nfe


def exact_flow(noise: torch.Tensor, end: float) -> torch.Tensor:
    """Closed-form end of the probability flow from sigma_max to `end`."""
    start = 80.0
    scale = math.sqrt((STD**2 + end**2) / (STD**2 + start**2))
    return MEAN + scale * (start * noise - MEAN)


def test_heun_is_of_second_order_on_gaussian_data() -> None:
    errors = []
    for steps in (33, 65, 129):
        noise, images, _ = run_heun(steps, final=False)
        errors.append(float((images - exact_flow(noise, 0.002)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25)


INTERVAL = (0.19, 1.61)


@pytest.mark.parametrize(
    ("scale", "interval", "final", "nfe"),
    [
        (2.5, INTERVAL, True, 75),
        (2.5, INTERVAL, False, 74),
        (2.5, (0.0, 100.0), True, 126),
        (2.5, (0.0, 100.0), False, 124),
        (1.0, INTERVAL, True, 63),
        (1.0, INTERVAL, False, 62),
    ],
)
def test_evaluations_counted_by_the_caller_and_by_the_plan(
    scale: float, interval: tuple[float, float], final: bool, nfe: int
) -> None:
    guidance = Guidance(scale, interval, null_class=1)
    assert run_heun(32, guidance, shift=4.0, final=final)[2] == nfe
    assert heun_nfe(32, 0.002, 80.0, 7.0, scale, interval, final) == nfe


def test_guided_levels_are_17_to_22() -> None:
    guidance = Guidance(2.5, INTERVAL, null_class=1)
    grid = sigma_grid(32, **PAPER)
    assert [i for i in range(32) if guidance.applies(float(grid[i]))] == list(range(17, 23))


def labelled(x: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return gaussian_denoiser(x, level, labels) + 0.01 * labels.reshape(-1, 1, 1, 1)


def test_guidance_scale_one_equals_conditional_bit_for_bit() -> None:
    noise, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    outputs = []
    for guidance in (None, Guidance(1.0, INTERVAL, 4)):
        denoiser = CountingDenoiser(labelled, labels, guidance, 1.0, None)
        outputs.append(
            heun(denoiser, noise, steps=16, sigma_shift=1.0, final_euler_step=True, **PAPER)[0]
        )
    assert torch.equal(*outputs)


def test_no_unconditional_pass_outside_the_interval() -> None:
    seen: list[tuple[float, int]] = []

    def spy(x: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((float(level[0]), int((labels == 9).sum())))
        return gaussian_denoiser(x, level, labels)

    denoiser = CountingDenoiser(
        spy, torch.tensor([0, 1]), Guidance(2.0, INTERVAL, null_class=9), 1.0, None
    )
    noise = torch.randn(2, 1, 4, 4)
    heun(denoiser, noise, steps=32, sigma_shift=1.0, final_euler_step=True, **PAPER)
    for level, unconditional in seen:
        assert unconditional == (2 if INTERVAL[0] < level <= INTERVAL[1] else 0)


def test_guidance_extrapolates_from_the_unconditional_estimate() -> None:
    x = torch.zeros(1, 1, 2, 2)
    denoiser = CountingDenoiser(labelled, torch.tensor([3]), Guidance(2.5, INTERVAL, 1), 1.0, None)
    base = gaussian_denoiser(x, sigma(1.0), torch.tensor([0]))
    torch.testing.assert_close(denoiser(x, 1.0), base + 0.01 * (1 + 2.5 * (3 - 1)))


def test_one_step_sampler_evaluates_once_and_two_step_twice() -> None:
    noise, labels = torch.randn(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    for levels, nfe in (((), 1), ((0.8,), 2)):
        denoiser = CountingDenoiser(gaussian_denoiser, labels, None, 2.0, None)
        _, counted = consistency(
            denoiser,
            noise,
            sigma_max=80.0,
            sigma_shift=2.0,
            intermediate=levels,
            renoise=lambda _i: noise,
        )
        assert counted == nfe


def test_estimates_are_clamped_per_channel() -> None:
    low, high = torch.tensor([-0.1, -0.2]), torch.tensor([0.1, 0.2])
    denoiser = CountingDenoiser(lambda x, _s, _y: x, torch.tensor([0]), None, 1.0, (low, high))
    out = denoiser(torch.tensor([-5.0, 5.0]).reshape(1, 2, 1, 1), 1.0)
    torch.testing.assert_close(out.flatten(), torch.tensor([-0.1, 0.2]))

"""Losses and their laws against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from epg.diffusion.schedule import sigma_grid
from epg.objectives.consistency import consistency_loss, pair_level, pair_weight, pseudo_huber
from epg.objectives.contrastive import info_nce
from epg.objectives.denoising import denoising_loss, level_weights
from epg.objectives.pretraining import (
    PretrainingInputs,
    consistency_temperature,
    pretraining_losses,
)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_identical_features_give_the_logarithm_of_the_batch() -> None:
    same = torch.ones(1024, 8)
    assert float(info_nce(same, same, 0.1)) == pytest.approx(math.log(1024), abs=1e-5)


@pytest.mark.parametrize(("tau", "value"), [(0.1, 1.3619e-4), (0.2, 0.020012)])
def test_orthonormal_features(tau: float, value: float) -> None:
    loss = float(info_nce(torch.eye(4), torch.eye(4), tau))
    assert loss == pytest.approx(value, rel=1e-3)
    assert loss == pytest.approx(math.log1p(3 * math.exp(-1 / tau)), rel=1e-3)


def test_contrastive_loss_does_not_depend_on_the_scale_of_features() -> None:
    q, k = torch.randn(8, 5), torch.randn(8, 5)
    torch.testing.assert_close(info_nce(q, k, 0.2), info_nce(3 * q, 7 * k, 0.2))


def test_contrastive_loss_is_the_same_under_any_split_over_ranks() -> None:
    q, k = torch.randn(12, 6), torch.randn(12, 6)
    whole = info_nce(q, k, 0.2)
    normalised = torch.nn.functional.normalize(k, dim=1)
    for ranks in (2, 3, 4):
        parts = [
            info_nce(qr, kr, 0.2, gather=lambda _local: normalised, rank=rank)
            for rank, (qr, kr) in enumerate(zip(q.chunk(ranks), k.chunk(ranks), strict=True))
        ]
        torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_keys_receive_no_gradient() -> None:
    q, k = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    info_nce(q, k, 0.2).backward()
    assert q.grad is not None
    assert q.grad.abs().sum() > 0
    assert k.grad is None


@pytest.mark.parametrize(
    ("progress", "tau"),
    [(0, 0.2), (1 / 6, 0.16173), (1 / 3, 0.12929), (1 / 2, 0.10761), (2 / 3, 0.1), (1, 0.1)],
)
def test_temperature_at_the_noisy_end_is_annealed(progress: float, tau: float) -> None:
    bounds = (0.002, 80.0)
    total = 60_000
    value = consistency_temperature(80.0, round(progress * total), total, 0.1, 0.2, bounds)
    assert value == pytest.approx(tau, abs=1e-5)
    low = consistency_temperature(0.002, round(progress * total), total, 0.1, 0.2, bounds)
    assert low == pytest.approx(0.1)


def test_weights_of_the_levels() -> None:
    grid = sigma_grid(1280, 0.002, 80.0, 7.0)
    weights = level_weights(grid)
    assert float(weights[0]) == pytest.approx(2.93374, abs=1e-5)
    nearest = int((grid - 2.5).abs().argmin())
    assert float(weights[nearest]) == pytest.approx(57.16, abs=0.1)
    assert float(weights[1278]) == pytest.approx(25_564.6, abs=0.1)
    assert float(weights[1279]) == float(weights[1278])
    product = weights[:-1] * grid[:-1] ** (6 / 7)
    assert float(product.min()) >= 125.49
    assert float(product.max()) <= 126.32


def test_denoising_loss_is_a_weighted_mean_over_pixels() -> None:
    images, noise = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    loss = denoising_loss(lambda x, _s: x, images, noise, doubles(1.0, 2.0), doubles(10.0, 1.0))
    assert float(loss) == pytest.approx((10 * 1 + 1 * 4) / 2)


@pytest.mark.parametrize(
    ("stage", "t", "r"),
    [
        (1, 80.0, 40.0),
        (1, 10.0, 4.99818),
        (1, 1.0, 0.002),
        (2, 1.0, 0.212117),
        (4, 1.0, 0.803029),
        (7, 80.0, 79.375),
        (7, 1.0, 0.975379),
    ],
)
def test_pair_law(stage: int, t: float, r: float) -> None:
    assert float(pair_level(doubles(t), stage, 2.0, 0.002)) == pytest.approx(r, rel=1e-5)


def test_pairs_are_ordered_and_the_clamp_has_no_weight() -> None:
    t = torch.exp(torch.linspace(math.log(0.0021), math.log(80), 400, dtype=torch.float64))
    for stage in range(1, 8):
        assert (pair_level(t, stage, 2.0, 0.002) < t).all()
    floor = doubles(0.002)
    weight = pair_weight(floor, pair_level(floor, 1, 2.0, 0.002), 4.0)
    assert float(weight) == 0.0
    assert float(pair_weight(doubles(2.0), doubles(1.5), 4.0)) == pytest.approx(0.5)


def test_pseudo_huber_and_its_gradient() -> None:
    d = torch.tensor([[[[3.0, 4.0]]]], requires_grad=True)
    loss = pseudo_huber(d, 0.06)
    norm = math.sqrt(25 + 0.06**2)
    assert float(loss) == pytest.approx(25 / norm)
    loss.sum().backward()
    assert d.grad is not None  # the denominator is not differentiated: 2 d / norm
    torch.testing.assert_close(d.grad, 2 * d.detach() / norm)


def test_pair_shares_noise_and_target_has_no_gradient() -> None:
    weight = torch.ones(1, requires_grad=True)
    images, noise = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, _sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return weight * x

    level = doubles(1.0, 2.0)
    loss, output = consistency_loss(
        denoise, denoise, images, noise, level, level, torch.ones(2), 0.06
    )
    assert torch.equal(seen[0], seen[1])
    assert float(loss) == 0.0
    assert output.requires_grad
    loss, _ = consistency_loss(
        denoise, denoise, images, noise, level, 0.5 * level, torch.ones(2), 0.06
    )
    (gradient,) = torch.autograd.grad(loss, weight)
    x_t, x_r = seen[-1], seen[-2]
    difference = (x_t - x_r).flatten(1)
    norm = (difference.square().sum(1) + 0.06**2).sqrt()
    expected = (2 * (difference * x_t.flatten(1)).sum(1) / norm).mean()  # only through x_t
    torch.testing.assert_close(gradient[0], expected)


def test_pretraining_terms_use_the_specified_pairs() -> None:
    batch, dim = 6, 4
    torch.manual_seed(0)
    net = torch.nn.Linear(4, dim)
    ema = torch.nn.Linear(4, dim)

    def features(layer: torch.nn.Linear):
        return lambda x, level: layer(x.flatten(1)) + 0.001 * level[:, None].float()

    images = [torch.randn(batch, 1, 2, 2) for _ in range(4)]
    inputs = PretrainingInputs(*images, sigma_floor=0.01, sigma_noisier=0.5, sigma_cleaner=0.3)
    terms = pretraining_losses(
        inputs,
        online=features(net),
        project=lambda z: 2 * z,
        target=features(ema),
        sigma_data=0.5,
        temperature_contrastive=0.2,
        temperature_consistency=0.1,
    )

    def noisy(image: torch.Tensor, s: float) -> tuple[torch.Tensor, torch.Tensor]:
        x = (image + s * inputs.noise) / math.sqrt(s**2 + 0.25)
        return x, torch.full((batch,), 250 * math.log(s), dtype=torch.float64)

    online, target = features(net), features(ema)
    v1, v2 = noisy(inputs.view1, 0.01), noisy(inputs.view2, 0.01)
    expected = info_nce(online(*v1), target(*v2), 0.2) + info_nce(online(*v2), target(*v1), 0.2)
    torch.testing.assert_close(terms["contrastive"], expected, rtol=1e-4, atol=1e-5)
    pair = info_nce(online(*noisy(inputs.clean, 0.5)), online(*noisy(inputs.clean, 0.3)), 0.1)
    torch.testing.assert_close(terms["consistency"], pair, rtol=1e-4, atol=1e-5)
    sum(terms.values()).backward()
    assert net.weight.grad is not None
    assert ema.weight.grad is None

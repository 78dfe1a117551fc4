"""Losses and their laws against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from epg.diffusion.denoisers import denoise_consistently
from epg.diffusion.schedule import sigma_grid
from epg.objectives.collapse import feature_deviation, is_collapsed
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


class Ranks:
    """Keys of all ranks, gathered in rank order: a first round collects, a second one hands out."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []

    def collect(self, local: torch.Tensor) -> torch.Tensor:
        self.keys.append(local)
        return local

    def hand_out(self, local: torch.Tensor) -> torch.Tensor:
        assert any(torch.equal(local, keys) for keys in self.keys)
        return torch.cat(self.keys)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_loss_and_gradient_are_the_same_under_any_split_over_ranks(ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 12, 6, generator=generator)

    def whole() -> tuple[torch.Tensor, torch.Tensor]:
        query = q.clone().requires_grad_()
        loss = info_nce(query, k, 0.2)
        return loss.detach(), torch.autograd.grad(loss, query)[0]

    world, queries, losses = Ranks(), [], []
    for part in k.chunk(ranks):
        info_nce(part, part, 0.2, gather=world.collect)
    for rank, (q_part, k_part) in enumerate(zip(q.chunk(ranks), k.chunk(ranks), strict=True)):
        queries.append(q_part.clone().requires_grad_())
        losses.append(info_nce(queries[-1], k_part, 0.2, gather=world.hand_out, rank=rank))
    loss = torch.stack(losses).mean()  # what averaging gradients over ranks minimises
    gradient = torch.cat(torch.autograd.grad(loss, queries))
    expected_loss, expected_gradient = whole()
    torch.testing.assert_close(loss.detach(), expected_loss)
    torch.testing.assert_close(gradient, expected_gradient)


def test_gradient_goes_to_queries_alone_and_has_its_closed_form() -> None:
    tau = 0.2
    q, k = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    info_nce(q, k, tau).backward()
    assert k.grad is None
    with torch.no_grad():
        q_hat, k_hat = (torch.nn.functional.normalize(x, dim=1) for x in (q, k))
        p = torch.softmax(q_hat @ k_hat.T / tau, dim=1)
        along = (p - torch.eye(5)) @ k_hat / (tau * 5)
        across = along - q_hat * (q_hat * along).sum(1, keepdim=True)  # |q| does not matter
        torch.testing.assert_close(q.grad, across / q.norm(dim=1, keepdim=True))
    assert q.grad is not None
    assert q.grad.abs().sum() > 0


def test_both_signs_of_a_collapse_come_together() -> None:
    batch, width = 256, 64
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(batch, width, generator=generator)
    same = torch.ones(batch, width) + 1e-5 * spread
    for features, deviation, collapsed in ((spread, 1.0, False), (same, 0.0, True)):
        loss = float(info_nce(features, features, 0.2))
        found = float(feature_deviation(features))
        assert found == pytest.approx(deviation, abs=0.02)
        assert is_collapsed(loss, batch, found) is collapsed
    # At ln B with spread features (queries that know nothing of their keys at a high temperature),
    # or with a low loss: no collapse.
    other = torch.randn(batch, width, generator=generator)
    assert float(info_nce(spread, other, 100.0)) == pytest.approx(math.log(batch), abs=1e-3)
    assert not is_collapsed(math.log(batch), batch, float(feature_deviation(spread)))
    assert not is_collapsed(2.0, batch, 0.0)


def test_feature_deviation_does_not_depend_on_scale_and_takes_no_gradient() -> None:
    features = torch.randn(32, 8, requires_grad=True)
    found = feature_deviation(features)
    assert not found.requires_grad
    torch.testing.assert_close(feature_deviation(7 * features), found)
    axes = torch.eye(4).repeat(3, 1)  # each of 4 directions three times: a closed form
    assert float(feature_deviation(axes)) == pytest.approx(2 * math.sqrt(1 / 4 - 1 / 16))


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


@pytest.mark.parametrize("stage", range(1, 8))
def test_pair_loss_is_finite_from_end_to_end(stage: int) -> None:
    low, high, shift = 0.002, 80.0, 4.0
    t = doubles(low, math.nextafter(low, 1.0), 0.0021, 0.05, 1.0, 10.0, high)
    r = pair_level(t, stage, 2.0, low)
    assert float(r[0]) == low  # the clamp: both ends of the pair are one level
    assert (r[1:] < t[1:]).all()
    assert (r >= low).all()
    weight = pair_weight(t, r, shift)
    assert torch.isfinite(weight).all()
    assert float(weight[0]) == 0.0
    assert (weight[1:] > 0).all()
    gain = torch.ones(1, requires_grad=True)
    images, noise = torch.randn(2, len(t), 3, 4, 4)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return denoise_consistently(
            lambda scaled, _c, _y: gain * scaled,
            x,
            sigma,
            torch.zeros(len(x), dtype=torch.int64),
            0.5,
            shift * low,
        )

    for part in [slice(i, i + 1) for i in range(len(t))] + [slice(None)]:
        loss, output = consistency_loss(
            denoise,
            denoise,
            images[part],
            noise[part],
            shift * t[part],
            shift * r[part],
            weight[part],
            0.06,
        )
        (gradient,) = torch.autograd.grad(loss, gain, retain_graph=True)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(output).all()
        if part == slice(0, 1):
            assert loss.item() == 0.0
            assert gradient.item() == 0.0


def test_denoising_loss_is_finite_at_every_level() -> None:
    grid = sigma_grid(1280, 0.002, 80.0, 7.0)
    weights = level_weights(grid)
    assert torch.isfinite(weights).all()
    assert (weights > 0).all()
    images, noise = torch.randn(2, len(grid), 1, 2, 2)
    loss = denoising_loss(lambda x, _s: 0 * x, images, noise, 4.0 * grid, weights)
    assert torch.isfinite(loss)
    expected = (weights * images.double().square().flatten(1).mean(1)).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


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

    view1, view2, clean, noise = (torch.randn(batch, 1, 2, 2) for _ in range(4))
    inputs = PretrainingInputs(
        view1, view2, clean, noise, sigma_floor=0.01, sigma_noisier=0.5, sigma_cleaner=0.3
    )
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
    torch.testing.assert_close(terms.contrastive, expected, rtol=1e-4, atol=1e-5)
    pair = info_nce(online(*noisy(inputs.clean, 0.5)), online(*noisy(inputs.clean, 0.3)), 0.1)
    torch.testing.assert_close(terms.consistency, pair, rtol=1e-4, atol=1e-5)
    z = online(*noisy(inputs.clean, 0.5))
    torch.testing.assert_close(terms.feature_deviation, feature_deviation(z))
    (terms.contrastive + terms.consistency).backward()
    assert net.weight.grad is not None
    assert ema.weight.grad is None

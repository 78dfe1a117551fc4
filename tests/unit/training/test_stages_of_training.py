"""Pre-training and both fine-tunings as the loop sees them."""

from __future__ import annotations

import math

import pytest
import torch

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.training.finetuning import Consistency, Denoising
from epg.training.objective import Objective
from epg.training.pretraining import Pretraining

CPU = torch.device("cpu")


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("smoke", {"consistency.dropout": 0.5})


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (16, 8, 8, 1), generator=generator, dtype=torch.uint8)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(16) % 10


def step(objective: Objective, images: torch.Tensor, labels: torch.Tensor, k: int = 0) -> None:
    terms, _ = objective.losses(images, labels, k)
    torch.stack(list(terms.values())).sum().backward()


def encoder_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    return Pretraining(recipe, CPU).encoder.state_dict()


def consistency_of(recipe: Recipe) -> Consistency:
    pretraining = Pretraining(recipe, CPU)
    return Consistency(
        recipe, pretraining.encoder.state_dict(), pretraining.projector.state_dict(), CPU
    )


def test_target_follows_by_its_decay_and_gets_no_gradient(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    stage = Pretraining(recipe, CPU)
    before = [p.clone() for p in stage.target.parameters()]
    step(stage, images, labels)
    assert all(p.grad is None for p in stage.target.parameters())
    assert all(p.grad is not None for p in stage.network.parameters())
    with torch.no_grad():
        for p in stage.network.parameters():
            p.add_(1.0)
    stage.after_step(0)
    for old, new, online in zip(
        before, stage.target.parameters(), stage.online.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * online)


def test_only_views_pass_the_projector(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    stage = Pretraining(recipe, CPU)
    sizes: list[int] = []
    stage.projector.register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
    stage.losses(images, labels, 0)
    assert sizes == [16, 16]  # one view at a time: BatchNorm sees one view


def test_same_seed_and_step_give_the_same_losses(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    def losses(k: int) -> list[float]:
        return [t.item() for t in Pretraining(recipe, CPU).losses(images, labels, k).terms.values()]

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)


def logged(stage: Pretraining, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The row of a step, as far as a warning may look at it."""
    terms, observed = stage.losses(images, labels, 0)
    row = {f"loss_{name}": term.item() for name, term in terms.items()}
    return {"step": 1} | row | {name: value.item() for name, value in observed.items()}


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_collapse_is_told(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor, weight: float
) -> None:
    changes = {"pretrain.batch_size": 16, "pretrain.contrastive_weight": weight}
    stage = Pretraining(load_recipe("smoke", changes), CPU)
    row = logged(stage, images, labels)
    assert 0.1 < row["feature_std"] <= 1.01
    assert stage.warning(row) is None
    with torch.no_grad():  # every image has the same features
        for module in (stage.online, stage.target):
            module.get_parameter("encoder.norm.weight").zero_()
    collapsed = logged(stage, images, labels)
    assert collapsed["loss_contrastive"] == pytest.approx(weight * 2 * math.log(16))
    text = stage.warning(collapsed)
    assert text is not None
    assert "step 1: pre-training has collapsed" in text
    assert "\n" not in text
    for healthy in ("loss_contrastive", "feature_std"):  # one sign alone is none
        assert stage.warning(collapsed | {healthy: row[healthy]}) is None


def test_without_the_contrastive_term_nothing_is_told(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    stage = Pretraining(load_recipe("smoke", {"pretrain.contrastive_weight": 0.0}), CPU)
    assert stage.warning(logged(stage, images, labels)) is None


def test_levels_are_neighbours_on_the_grid_of_the_step(recipe: Recipe) -> None:
    from epg.diffusion.schedule import num_scales_at, sigma_grid

    stage = Pretraining(recipe, CPU)
    for k in (0, 1, 10, 19):
        config, diffusion = recipe.pretrain, recipe.diffusion
        count = num_scales_at(k, config.steps, config.num_scales_start, config.num_scales_end)
        grid = sigma_grid(count, diffusion.sigma_min, diffusion.sigma_max, diffusion.rho).tolist()
        noisier, cleaner = stage._neighbours(k)
        assert grid.index(cleaner) == grid.index(noisier) + 1


def test_generators_start_from_the_pretrained_encoder(recipe: Recipe) -> None:
    encoder = encoder_of(recipe)
    stage = Denoising(recipe, encoder, CPU)
    for name, tensor in stage.generator.encoder.state_dict().items():
        assert torch.equal(tensor, encoder[name])


def test_denoising_drops_labels_at_its_rate(recipe: Recipe) -> None:
    stage = Denoising(recipe, encoder_of(recipe), CPU)
    seen: list[torch.Tensor] = []
    stage.generator.register_forward_pre_hook(lambda _m, args: seen.append(args[2]))
    images = torch.zeros(512, 8, 8, 1, dtype=torch.uint8)
    stage.losses(images, torch.zeros(512, dtype=torch.int64), 0)
    rate = float((seen[0] == stage.generator.null_class).float().mean())
    assert rate == pytest.approx(recipe.denoising.class_dropout_prob, abs=0.05)


def test_average_moves_after_a_step(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    stage = Denoising(recipe, encoder_of(recipe), CPU)
    step(stage, images, labels)
    with torch.no_grad():
        stage.generator.decoder.head.bias.fill_(1.0)
    stage.after_step(0)  # decay (1 + 0) / (10 + 0)
    torch.testing.assert_close(stage.ema.decoder.head.bias, torch.full((4,), 0.9))


def test_pair_passes_share_the_dropout_mask(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = consistency_of(recipe)
    with torch.no_grad():
        for p in stage.generator.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr("epg.training.finetuning.pair_level", lambda t, *_: t)
    monkeypatch.setattr("epg.training.finetuning.pair_weight", lambda t, *_: torch.ones_like(t))
    assert stage.losses(images, labels, 0).terms["consistency"].item() == 0.0


def test_frozen_network_has_no_gradient_but_passes_it_to_the_image(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    stage = consistency_of(recipe)
    x = torch.randn(8, 1, 8, 8, requires_grad=True)
    stage._frozen_features(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    frozen = [*stage._frozen_encoder.parameters(), *stage._frozen_projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    names = {name for name, _ in stage.network.named_parameters()}
    assert not any("frozen" in name for name in names)


def test_auxiliary_features_come_from_either_side_of_the_projector(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    before = load_recipe("smoke", {"consistency.auxiliary_projector": False})
    x = torch.randn(8, 1, 8, 8)
    features = consistency_of(before)._frozen_features(x)
    assert features.shape == (8, recipe.model.embed_dim)
    stage = consistency_of(recipe)
    torch.testing.assert_close(stage._frozen_features(x), stage._frozen_projector(features))
    terms = consistency_of(before).losses(images, labels, 0).terms
    assert terms["auxiliary"] != stage.losses(images, labels, 0).terms["auxiliary"]


def test_auxiliary_term_can_be_left_out(
    recipe: Recipe, images: torch.Tensor, labels: torch.Tensor
) -> None:
    assert set(consistency_of(recipe).losses(images, labels, 0).terms) == {
        "consistency",
        "auxiliary",
    }
    off = load_recipe("smoke", {"consistency.auxiliary_weight": 0.0})
    assert set(consistency_of(off).losses(images, labels, 0).terms) == {"consistency"}


def keys_of(stage: Pretraining, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Record the keys of the three terms in their order."""
    from epg.objectives import pretraining

    keys: list[torch.Tensor] = []
    original = pretraining.info_nce

    def spy(query: torch.Tensor, key: torch.Tensor, *rest: object) -> torch.Tensor:
        keys.append(key.detach().clone())
        return original(query, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "info_nce", spy)
    return keys


@pytest.mark.parametrize("moved", [False, True])
def test_keys_come_from_where_the_recipe_says(
    images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    found = {}
    for target in ("ema", "stop-gradient"):
        changes = {"pretrain.contrastive_target": target, "pretrain.consistency_target": target}
        stage = Pretraining(load_recipe("smoke", changes), CPU)
        keys = keys_of(stage, monkeypatch)
        if moved:  # the target is left behind
            with torch.no_grad():
                for p in stage.online.parameters():
                    p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        step(stage, images, labels)
        found[target] = keys
        monkeypatch.undo()
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(*found.values(), strict=True)]
    assert same == [not moved] * 3


def test_stop_gradient_lets_no_gradient_through_the_keys(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    def gradient(target: str) -> torch.Tensor:
        changes = {"pretrain.contrastive_target": target}
        stage = Pretraining(load_recipe("smoke", changes), CPU)
        step(stage, images, labels)
        weight = stage.encoder.patch_embed.weight
        assert weight.grad is not None
        return weight.grad

    # Before the first step both networks are one: so are the values, and a gradient through the
    # keys would be all that differs.
    torch.testing.assert_close(gradient("stop-gradient"), gradient("ema"), rtol=1e-4, atol=1e-6)


def test_stale_buffers_of_the_target_are_never_updated(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    def target_of(setting: str) -> tuple[Pretraining, dict[str, torch.Tensor]]:
        stage = Pretraining(load_recipe("smoke", {"pretrain.target_batch_norm": setting}), CPU)
        for k in range(3):
            step(stage, images, labels, k)
            stage.after_step(k)
        buffers = {n: b for n, b in stage.target.named_buffers() if "running" in n}
        assert len(buffers) == 4
        return stage, buffers

    stale, buffers = target_of("stale")
    for name, buffer in buffers.items():
        assert torch.equal(buffer, torch.full_like(buffer, 1.0 if "var" in name else 0.0))
    x = torch.randn(16, 1, 8, 8)
    level = torch.zeros(16)
    batch, moved = target_of("batch")
    assert not any(torch.equal(moved[name], buffers[name]) for name in moved)
    batch.target.load_state_dict(stale.target.state_dict())
    assert not torch.allclose(stale._target_features(x, level), batch._target_features(x, level))


@pytest.mark.parametrize("objective", ["denoising", "consistency"])
def test_a_frozen_encoder_does_not_change(
    objective: str, images: torch.Tensor, labels: torch.Tensor
) -> None:
    from epg.training.optimizer import optimizer_tensors
    from epg.training.step import _adamw

    changes = {f"{objective}.encoder_trainable": False, f"{objective}.ema_decay": 0.5}
    recipe = load_recipe("smoke", changes)
    encoder = {name: t.clone() for name, t in encoder_of(recipe).items()}
    stage: Denoising | Consistency = (
        Denoising(recipe, encoder, CPU) if objective == "denoising" else consistency_of(recipe)
    )
    optimizer = _adamw(stage, getattr(recipe, objective))
    begun = {name: t.clone() for name, t in stage.generator.state_dict().items()}
    assert set(optimizer_tensors(stage.network, optimizer))  # a checkpoint can be made
    for k in range(2):
        optimizer.zero_grad()
        step(stage, images, labels, k)
        optimizer.step()
        stage.after_step(k)
    for generator in (stage.generator, stage.ema):
        for name, tensor in generator.encoder.state_dict().items():
            assert torch.equal(tensor, encoder[name]), name
    moved = {n for n, t in stage.generator.state_dict().items() if not torch.equal(t, begun[n])}
    assert moved
    assert all(not name.startswith("encoder.") for name in moved)
    assert "decoder.head.weight" in moved
    # No class is dropped in the consistency objective; there is a gradient through the encoder.
    assert stage.generator.class_embed.weight.grad is not None


def test_several_rates_are_averaged_at_once(images: torch.Tensor, labels: torch.Tensor) -> None:
    changes = {"denoising.ema_decay": [0.9, 0.5], "denoising.ema_warmup": False}
    recipe = load_recipe("smoke", changes)
    stage = Denoising(recipe, encoder_of(recipe), CPU)
    step(stage, images, labels)
    with torch.no_grad():
        stage.generator.decoder.head.bias.fill_(1.0)
    stage.after_step(0)
    weights = stage.weights()
    assert list(weights) == ["generator", "generator-ema-0.5"]
    for (kind, tensors), share in zip(weights.items(), (0.1, 0.5), strict=True):
        torch.testing.assert_close(tensors["decoder.head.bias"], torch.full((4,), share), msg=kind)
    assert weights["generator"].keys() == stage.ema.state_dict().keys()
    prefixes = {name.partition(".")[0] for name in stage.state()}
    assert prefixes == {"model", "ema", "ema-0"}  # the rate's own dot follows


def test_the_rate_falls_from_layer_to_layer_towards_the_image() -> None:
    recipe = load_recipe("smoke", {"denoising.layer_decay": 0.5, "model.depth": 3})
    stage = Denoising(recipe, encoder_of(recipe), CPU)
    factors = stage.learning_rate_factors
    expected = {
        "encoder.pos_embed": 0.125,
        "encoder.cls_token": 0.125,
        "encoder.patch_embed.weight": 0.125,
        "encoder.blocks.0.attn.qkv.weight": 0.25,
        "encoder.blocks.1.mlp.fc1.bias": 0.5,
        "encoder.blocks.2.norm1.weight": 1.0,
    }
    assert {name: factors[name] for name in expected} == expected
    names = dict(stage.network.named_parameters())
    assert set(factors) <= set(names)
    for name in ("encoder.norm.weight", "class_embed.weight", "decoder.head.weight"):
        assert name not in factors


def test_the_optimizer_takes_each_layers_rate(images: torch.Tensor, labels: torch.Tensor) -> None:
    from epg.training.step import _adamw

    recipe = load_recipe("smoke", {"denoising.layer_decay": 0.5})
    stage = Denoising(recipe, encoder_of(recipe), CPU)
    optimizer = _adamw(stage, recipe.denoising)
    names = {p: name for name, p in stage.network.named_parameters()}
    found = {
        names[p]: (group["learning_rate_factor"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert set(found) == set(names.values())
    for name, (factor, decay) in found.items():
        assert factor == stage.learning_rate_factors.get(name, 1.0)
        assert decay == (0.0 if name in stage.undecayed else recipe.denoising.weight_decay)


def test_without_pre_training_there_is_no_auxiliary_term(
    images: torch.Tensor, labels: torch.Tensor
) -> None:
    recipe = load_recipe("smoke", {"pretrain.enabled": False})
    assert recipe.consistency.auxiliary_weight == 1.0
    assert set(consistency_of(recipe).losses(images, labels, 0).terms) == {"consistency"}

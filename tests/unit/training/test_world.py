"""The number of processes changes nothing: simulated ranks against one process, bit for bit."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.diffusion.seeds import BLOCK, SampleNoise
from epg.model.decoder import DecoderBlock
from epg.training.finetuning import Consistency, Denoising
from epg.training.job import TrainingJob
from epg.training.launch import with_files
from epg.training.pretraining import Pretraining
from epg.training.world import World
from tests.toys.ranks import together, worlds

CPU = torch.device("cpu")
COUNT = 48  # not whole blocks: the second of two ranks begins within one
IMAGES = torch.randint(
    0, 256, (COUNT, 8, 8, 1), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)
LABELS = torch.arange(COUNT) % 10
OBJECTIVES = ("pretraining", "denoising", "consistency")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    changes = {"consistency.dropout": 0.5, "data.horizontal_flip": True}
    return load_recipe("smoke", changes)


def build(name: str, recipe: Recipe, world: World) -> Any:
    stage1 = Pretraining(recipe, CPU, world)
    if name == "pretraining":
        return stage1
    encoder = stage1.encoder.state_dict()
    if name == "denoising":
        objective: Any = Denoising(recipe, encoder, CPU, world)
    else:
        objective = Consistency(recipe, encoder, stage1.projector.state_dict(), CPU, world)
    with torch.no_grad():  # off the zero start, where the decoder's blocks do nothing
        for parameter in objective.network.parameters():
            generator = torch.Generator().manual_seed(2)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return objective


def local(world: World, tensor: Tensor) -> Tensor:
    return tensor.chunk(world.size)[world.rank]


def step(objective: Any, world: World, k: int = 3) -> dict[str, Tensor]:
    terms, _ = objective.losses(local(world, IMAGES), local(world, LABELS), k)
    torch.stack(list(terms.values())).sum().backward()
    return {name: world.reduce(term.detach()) for name, term in terms.items()}


def in_ranks(name: str, recipe: Recipe, size: int) -> list[tuple[Any, dict[str, Tensor]]]:
    """Return each rank's objective and its reduced terms after one step."""
    ranks = [World.single()] if size == 1 else worlds(size)
    objectives = [build(name, recipe, world) for world in ranks]
    works = [functools.partial(step, o, w) for o, w in zip(objectives, ranks, strict=True)]
    return list(zip(objectives, together(works), strict=True))


# --- random numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 70])
def test_a_slice_has_the_rows_of_the_whole(cut: int) -> None:
    def draw(first: int, count: int) -> list[Tensor]:
        noise = SampleNoise(0, "stage", 5, first, count)
        double = noise.normal("level", dtype=torch.float64)
        return [noise.normal("noise", (3, 2)), double, noise.uniform("flip")]

    whole = draw(0, 100)
    for part, rest, expected in zip(draw(0, cut), draw(cut, 100 - cut), whole, strict=True):
        assert torch.equal(torch.cat([part, rest]), expected)


def test_numbers_depend_on_all_that_they_should() -> None:
    def draw(seed: int = 0, stage: str = "a", k: int = 0, name: str = "x") -> Tensor:
        return SampleNoise(seed, stage, k, 0, 2 * BLOCK).normal(name)

    changed = [draw(1), draw(stage="b"), draw(k=1), draw(name="y")]
    assert torch.equal(draw(), draw())
    assert all(not torch.equal(draw(), other) for other in changed)
    assert len(draw().unique()) == 2 * BLOCK  # no block repeats another
    assert SampleNoise(0, "a", 0, 0, 4096).normal("x").std() == pytest.approx(1.0, abs=0.05)
    assert SampleNoise(0, "a", 0, 0, 4096).uniform("x").mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_together_draw_what_one_process_draws(
    name: str, size: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, dict[int, Tensor]] = defaultdict(dict)

    def spy(method: Callable) -> Callable:
        def call(self: SampleNoise, key: str, *args: Any, **kwargs: Any) -> Tensor:
            numbers: Tensor = method(self, key, *args, **kwargs)
            before = drawn[key].setdefault(self.first, numbers)
            assert torch.equal(before, numbers)
            return numbers

        return call

    for method in ("normal", "uniform"):
        monkeypatch.setattr(SampleNoise, method, spy(getattr(SampleNoise, method)))
    in_ranks(name, recipe, 1)
    alone = {key: of_key[0] for key, of_key in drawn.items()}
    drawn.clear()
    in_ranks(name, recipe, size)
    expected = {
        "pretraining": {"views", "flip", "noise"},
        "denoising": {"flip", "noise", "level", "label"},
        "consistency": {"flip", "noise", "level", "dropout/0", "dropout/1"},
    }
    assert set(alone) == set(drawn) == expected[name]
    for key, numbers in alone.items():
        assert len(drawn[key]) == size
        assert torch.equal(torch.cat([drawn[key][i] for i in sorted(drawn[key])]), numbers), key


def test_the_level_of_pretraining_is_one_for_all_ranks(recipe: Recipe) -> None:
    levels = {build("pretraining", recipe, world)._neighbours(7) for world in worlds(3)}
    assert len(levels) == 1


# --- losses and gradients --------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranks_have_the_loss_and_the_mean_gradient_of_one_process(
    name: str, recipe: Recipe
) -> None:
    [(alone, terms)] = in_ranks(name, recipe, 1)
    ranks = in_ranks(name, recipe, 2)
    for _, reduced in ranks:
        assert {k: float(v) for k, v in reduced.items()} == pytest.approx(
            {k: float(v) for k, v in terms.items()}, rel=1e-5
        )
    gradients = [{k: p.grad for k, p in o.network.named_parameters()} for o, _ in ranks]
    for key, parameter in alone.network.named_parameters():
        mean = torch.stack([of_rank[key] for of_rank in gradients]).mean(0)
        torch.testing.assert_close(mean, parameter.grad, rtol=1e-3, atol=1e-5)


# --- files -----------------------------------------------------------------------------------


def test_other_machines_get_the_weights_to_start_from(
    pretraining: TrainingJob, tmp_path: Path
) -> None:
    """Of two files, the second rank has none; its own folder takes them."""
    jobs = []
    for rank in range(2):
        scratch = tmp_path / str(rank)
        scratch.mkdir()
        files = {kind: scratch / f"{kind}.safetensors" for kind in ("encoder", "projector")}
        jobs.append(dataclasses.replace(pretraining, weights=files, scratch=scratch))
    for kind, path in jobs[0].weights.items():
        path.write_bytes(kind.encode() * 1000)
    works = [functools.partial(with_files, j, w) for j, w in zip(jobs, worlds(2), strict=True)]
    first, second = together(works)
    assert first == jobs[0]
    for kind, path in second.weights.items():
        assert path.parent == tmp_path / "1"
        assert path.read_bytes() == jobs[0].weights[kind].read_bytes()


# --- dropout ---------------------------------------------------------------------------------


def test_recomputed_blocks_drop_the_same_and_give_the_same_gradient(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(plain, terms)] = in_ranks("consistency", recipe, 1)
    forward = DecoderBlock.forward
    monkeypatch.setattr(
        DecoderBlock, "forward", lambda *args: checkpoint(forward, *args, use_reentrant=False)
    )
    [(recomputed, again)] = in_ranks("consistency", recipe, 1)
    assert again == terms
    gradients = {k: p.grad for k, p in recomputed.network.named_parameters()}
    for key, parameter in plain.network.named_parameters():
        assert torch.equal(gradients[key], parameter.grad), key


def test_blocks_drop_differently(recipe: Recipe) -> None:
    objective = build("consistency", recipe, World.single())
    masks: list[Tensor] = []
    original = DecoderBlock._drop

    def spy(self: DecoderBlock, x: Tensor, kept: Tensor | None) -> Tensor:
        masks.append(original(self, torch.ones_like(x), kept))
        return original(self, x, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderBlock, "_drop", spy)
        objective.losses(IMAGES, LABELS, 0)
    first, second, again, once_more = masks  # both blocks of the target's pass, then of the other
    assert torch.equal(first, again)
    assert torch.equal(second, once_more)
    assert not torch.equal(first, second)

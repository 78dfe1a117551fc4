"""Parts of a batch, other precisions, recomputed blocks: what they may change, and what not."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.config.training import OptimizerConfig
from epg.errors import UserError
from epg.model.precision import Precision
from epg.model.projector import BatchNorm
from epg.training.finetuning import Consistency, Denoising
from epg.training.pretraining import Pretraining
from epg.training.step import Stepper
from epg.training.world import World
from tests.toys.ranks import together, worlds

CPU = torch.device("cpu")
COUNT = 32
OBJECTIVES = ("pretrain", "denoising", "consistency")
IMAGES = torch.randint(
    0, 256, (COUNT, 8, 8, 1), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)
LABELS = torch.arange(COUNT) % 10


def stepped(
    objective: str, numbers: str = "float32", **changes: Any
) -> tuple[dict[str, Any], dict[str, Tensor], Recipe]:
    """Return the row of one step, the gradients behind it, and the recipe."""
    recipe = load_recipe("smoke", {f"{objective}.{key}": v for key, v in changes.items()})
    precision = Precision(numbers, objective, CPU)  # type: ignore[arg-type]
    stage1 = Pretraining(recipe, CPU, precision=precision)
    encoder = stage1.encoder.state_dict()
    trained: Any = stage1
    if objective == "denoising":
        trained = Denoising(recipe, encoder, CPU, precision=precision)
    elif objective == "consistency":
        projector = stage1.projector.state_dict()
        trained = Consistency(recipe, encoder, projector, CPU, precision=precision)
    with torch.no_grad():  # off the zero start
        for parameter in trained.network.parameters():
            generator = torch.Generator().manual_seed(2)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    section: OptimizerConfig = getattr(recipe, objective)
    stepper = Stepper(trained, section, World.single(), precision)
    row = stepper.step(IMAGES, LABELS, 0)
    assert row is not None
    gradients = {
        name: p.grad.clone() for name, p in trained.network.named_parameters() if p.grad is not None
    }
    return row, gradients, recipe


@pytest.mark.parametrize(
    ("objective", "changes"),
    [("denoising", {}), ("consistency", {"auxiliary_weight": 0.0, "dropout": 0.5})],
)
def test_parts_give_the_batchs_loss_and_gradient(objective: str, changes: dict[str, Any]) -> None:
    whole, gradients, _ = stepped(objective, **changes)
    parts, same, _ = stepped(objective, gradient_accumulation=4, **changes)
    assert parts == pytest.approx(whole, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("objective", ["pretrain", "consistency"])
def test_what_compares_all_images_refuses_parts(objective: str) -> None:
    with pytest.raises(UserError, match=r"it must be 1, since .* compares all images"):
        load_recipe("smoke", {f"{objective}.gradient_accumulation": 2})


def test_parts_divide_the_batch() -> None:
    with pytest.raises(UserError, match=r"gradient_accumulation is 5: it must divide batch_size"):
        load_recipe("smoke", {"denoising.gradient_accumulation": 5})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_recomputed_blocks_change_no_bit(objective: str) -> None:
    kept, gradients, _ = stepped(objective)
    again, same, _ = stepped(objective, activation_checkpointing=True)
    assert again == kept
    assert all(torch.equal(same[name], gradient) for name, gradient in gradients.items())


@pytest.mark.parametrize(
    ("objective", "numbers", "bound"),
    [
        ("pretrain", "bfloat16", 0.25),  # its projector's BatchNorm stretches small differences
        ("pretrain", "float16", 0.15),
        ("denoising", "bfloat16", 0.05),
        ("consistency", "float16", 0.02),
    ],
)
def test_sixteen_bits_stay_near_float32(objective: str, numbers: str, bound: float) -> None:
    exact, gradients, _ = stepped(objective)
    near, other, _ = stepped(objective, numbers)
    assert near["loss"] == pytest.approx(exact["loss"], rel=bound / 8)
    ours = torch.cat([g.flatten() for g in other.values()])
    theirs = torch.cat([g.flatten() for g in gradients.values()])
    assert all(gradient.dtype == torch.float32 for gradient in other.values())
    assert torch.linalg.vector_norm(ours - theirs) < bound * torch.linalg.vector_norm(theirs)


def test_automatic_precision_goes_by_device_and_objective() -> None:
    gpu = torch.device("cuda")  # is not asked for anything here
    assert [Precision("auto", name, CPU).name for name in OBJECTIVES] == ["float32"] * 3
    assert Precision("auto", "pretrain", gpu).name == "bfloat16"
    assert Precision("auto", "denoising", gpu).name == "bfloat16"
    assert Precision("float32", "denoising", gpu).name == "float32"


def test_a_scaler_s_tensors_are_part_of_the_state() -> None:
    assert Precision.full().state() == {}
    state = Precision("float16", "denoising", CPU).state()
    assert {name: float(tensor) for name, tensor in state.items()} == {
        "scaler.scale": 2.0**14,
        "scaler.growth_tracker": 0.0,
    }


# --- BatchNorm over all processes ------------------------------------------------------------


def normalised(norm: nn.Module, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    x = rows.clone().requires_grad_()
    out = norm(x)
    (out * weights).square().sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


def test_batch_norm_sees_all_processes_as_torch_s_sees_one() -> None:
    torch.manual_seed(0)
    rows, weights = 3 + 2 * torch.randn(24, 5), torch.randn(24, 5)
    whole = nn.BatchNorm1d(5)
    nn.init.normal_(whole.weight)
    expected, gradient = normalised(whole, rows, weights)
    norms = [BatchNorm(5) for _ in range(3)]
    works = []
    for world, norm in zip(worlds(3), norms, strict=True):
        norm.weight.data.copy_(whole.weight.data)
        norm.total, norm.processes = world.total, world.size
        part = slice(8 * world.rank, 8 * world.rank + 8)
        works.append(functools.partial(normalised, norm, rows[part], weights[part]))
    results = together(works)
    torch.testing.assert_close(torch.cat([out for out, _ in results]), expected)
    torch.testing.assert_close(torch.cat([grad for _, grad in results]), gradient)
    for norm in norms:
        for name, buffer in whole.named_buffers():
            torch.testing.assert_close(norm.get_buffer(name), buffer)
    summed = torch.stack([n.weight.grad for n in norms if n.weight.grad is not None]).sum(0)
    torch.testing.assert_close(summed, whole.weight.grad)
    torch.testing.assert_close(norms[0].eval()(rows), whole.eval()(rows))


# --- Not enough memory -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "ways"),
    [
        ("pretrain", "activation_checkpointing=true, batch_size=16, more processes"),
        ("denoising", "activation_checkpointing=true, gradient_accumulation=2, batch_size=16"),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(objective: str, ways: str) -> None:
    recipe = load_recipe("smoke")
    trained: Any = Pretraining(recipe, CPU)
    if objective == "denoising":
        trained = Denoising(recipe, trained.encoder.state_dict(), CPU)

    def too_much(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trained.losses = too_much
    section: OptimizerConfig = getattr(recipe, objective)
    stepper = Stepper(trained, section, World.single(), Precision.full())
    with pytest.raises(UserError, match=rf"too small for 32 images of 8x8 .*set one of {ways}"):
        stepper.step(IMAGES, LABELS, 0)

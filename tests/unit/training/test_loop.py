"""The loop: resume is exact, non-finite losses stop before the weights change."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from epg.config.training import OptimizerConfig
from epg.diffusion.seeds import generator_for
from epg.errors import UserError
from epg.store import open_store
from epg.store.lease import InUse
from epg.training.checkpoints import Checkpoints
from epg.training.loop import Watch, train
from epg.training.objective import Losses
from epg.training.optimizer import optimizer_tensors
from epg.training.world import World
from tests.toys.ranks import together, worlds

STEPS = 12


def generator_noise(step: int) -> Tensor:
    return torch.randn((8, 4), generator=generator_for("toy", step))


class Toy:
    """A linear model with a moving average; may turn non-finite at a step."""

    undecayed = frozenset({"bias"})
    learning_rate_factors: Mapping[str, float] = {}
    wrong_steps: tuple[int, ...] = ()

    def __init__(self, bad_step: int | None = None) -> None:
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)
        self.mean = torch.zeros(4)
        self.bad_step = bad_step
        self.noise = generator_noise

    @property
    def network(self) -> nn.Module:
        return self.net

    def state(self) -> dict[str, Tensor]:
        return {**self.net.state_dict(), "mean": self.mean}

    def losses(
        self, images: Tensor, labels: Tensor, step: int, part: int = 0, parts: int = 1
    ) -> Losses:
        error = self.net(images.float() + self.noise(step)).squeeze(1) - labels
        scale = float("nan") if step == self.bad_step else 1.0
        terms = {"square": error.square().mean() * scale, "size": self.net.weight.abs().sum() * 0.1}
        return Losses(terms, {"width": error.detach().std()})

    def after_step(self, step: int) -> None:
        self.mean.lerp_(self.net.weight.detach()[0], 0.1)

    def warning(self, row: dict[str, Any]) -> str | None:
        return f"wrong at {row['step']}" if row["step"] in self.wrong_steps else None

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return {"toy": self.net.state_dict()}


def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
    step = start
    while True:
        generator = generator_for("data", step)
        images = torch.randint(0, 9, (8, 4), generator=generator, dtype=torch.uint8)
        yield images, images.sum(1)
        step += 1


def settings(**changed: Any) -> OptimizerConfig:
    content = {
        "steps": STEPS,
        "batch_size": 8,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every_seconds": 1e-9,
    }
    return OptimizerConfig.model_validate(content | changed)


def run(place: Path, toy: Toy, watch: Watch | None = None, **changed: Any) -> list[dict]:
    place.mkdir(parents=True, exist_ok=True)
    return train(toy, settings(**changed), batches, kept(place), watch or Watch(), World.single())


def kept(place: Path) -> Checkpoints:
    return Checkpoints(open_store(str(place / "c")), {"a": 1}, {}, place)


def restored_step(place: Path) -> int:
    """Steps done in the newest checkpoint."""
    toy = Toy()
    optimizer = torch.optim.AdamW(toy.net.parameters(), fused=True)
    checkpoint = kept(place).restore(
        lambda: {**toy.state(), **optimizer_tensors(toy.net, optimizer)}
    )
    return checkpoint.step if checkpoint else 0


class KilledError(Exception):
    """Stands for a kill between two steps."""


def killing_at(step: int) -> Watch:
    def progress(done: int, _total: int, _values: dict[str, float]) -> None:
        if done == step:
            raise KilledError

    return Watch(progress=progress)


class Place:
    """A guard of a place that somebody else takes at a step."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise InUse("another has it")

    def confirm(self) -> None:
        if self.looks <= 0:
            raise InUse("another has it")


def test_who_lost_the_stage_stops_at_the_next_step(tmp_path: Path) -> None:
    rows: list[dict] = []
    with pytest.raises(InUse):
        run(tmp_path, Toy(), Watch(row=rows.append, guard=Place(3)))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert restored_step(tmp_path) == 3


def test_resuming_any_number_of_times_changes_no_bit(tmp_path: Path) -> None:
    whole = Toy()
    series = run(tmp_path / "whole", whole)
    assert [row["step"] for row in series] == list(range(1, STEPS + 1))
    for step in (3, 4, 9):
        with pytest.raises(KilledError):
            run(tmp_path / "broken", Toy(), killing_at(step))
    resumed = Toy()
    assert run(tmp_path / "broken", resumed) == series
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_training_moves_the_weights(tmp_path: Path) -> None:
    series = run(tmp_path, Toy(), steps=200, checkpoint_every_seconds=1e9)
    assert series[-1]["loss"] < 0.5 * series[0]["loss"]


@pytest.mark.parametrize("bad_step", [0, 5])
def test_a_non_finite_loss_stops_before_the_weights_change(tmp_path: Path, bad_step: int) -> None:
    toy = Toy(bad_step)
    with pytest.raises(UserError, match=rf"step {bad_step + 1}: the loss .* not finite"):
        run(tmp_path, toy)
    assert all(t.isfinite().all() for t in toy.state().values())
    assert restored_step(tmp_path) == bad_step


def test_clipping_waits_for_the_end_of_the_warm_up(tmp_path: Path) -> None:
    """With a tiny bound the first clipped step hardly moves Adam's second moment."""
    sizes: list[float] = []
    toy = Toy()

    def progress(_done: int, _total: int, _values: dict[str, float]) -> None:
        weight = toy.net.weight
        assert weight.grad is not None
        sizes.append(float(weight.grad.norm()))

    run(tmp_path, toy, Watch(progress=progress), grad_clip=1e-3, warmup_steps=4)
    assert min(sizes[:4]) > 1e-2
    assert max(sizes[4:]) <= 1e-3


def test_sigterm_saves_at_the_next_boundary_and_exits_143(tmp_path: Path) -> None:
    def progress(done: int, _total: int, _values: dict[str, float]) -> None:
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, Toy(), Watch(progress=progress), checkpoint_every_seconds=1e9)
    assert stopped.value.code == 143
    assert restored_step(tmp_path) in (4, 5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_rows_hold_what_the_report_draws(tmp_path: Path) -> None:
    rows: list[dict] = []
    series = run(tmp_path, Toy(), Watch(row=rows.append), log_every=5)
    assert [row["step"] for row in series] == [5, 10, 12]
    expected = {"step", "images_seen", "loss", "loss_square", "loss_size", "learning_rate"}
    assert expected | {"grad_norm", "width"} == set(series[0])
    assert series[0]["loss"] == pytest.approx(series[0]["loss_square"] + series[0]["loss_size"])
    assert "images_per_second" in rows[0]


def test_a_warning_is_given_once(tmp_path: Path) -> None:
    toy = Toy()
    heard: list[str] = []
    toy.wrong_steps = (4, 8)
    run(tmp_path, toy, Watch(warning=heard.append), log_every=2)
    assert heard == ["wrong at 4"]


def test_weight_decay_spares_what_the_objective_names(tmp_path: Path) -> None:
    """With no gradient at all, decay alone moves the weights."""

    class Flat(Toy):
        def losses(
            self, images: Tensor, labels: Tensor, step: int, part: int = 0, parts: int = 1
        ) -> Losses:
            return Losses({"none": 0.0 * (self.net.weight.sum() + self.net.bias.sum())}, {})

    toy = Flat()
    nn.init.ones_(toy.net.weight)
    nn.init.ones_(toy.net.bias)
    run(tmp_path, toy, steps=3, warmup_steps=0, weight_decay=0.5)
    assert toy.net.weight.max().item() < 1.0
    assert toy.net.bias.item() == 1.0


def test_rows_are_means_over_the_ranks_and_the_first_one_saves(tmp_path: Path) -> None:
    ranks = worlds(2)

    def work(world: World) -> list[dict]:
        def slices(start: int) -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in batches(start):
                yield images.chunk(2)[world.rank], labels.chunk(2)[world.rank]

        toy = toys[world.rank]
        toy.noise = lambda step: generator_noise(step).chunk(2)[world.rank]
        return train(toy, settings(steps=2), slices, kept(tmp_path), Watch(), world)

    toys = [Toy(), Toy()]
    first, second = together([functools.partial(work, world) for world in ranks])
    assert first == second
    assert len(list((tmp_path / "c").glob("step-000000001.*"))) == 1
    alone = run(tmp_path / "alone", Toy(), steps=2)[0]
    assert first[0]["loss"] == pytest.approx(alone["loss"])
    assert first[0]["loss_square"] == pytest.approx(alone["loss_square"])

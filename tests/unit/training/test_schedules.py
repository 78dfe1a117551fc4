"""Learning rate, EMA decay and stages as functions of the step."""

from __future__ import annotations

from typing import Any

import pytest

from epg.config.loading import load_recipe
from epg.config.training import ConsistencyConfig, OptimizerConfig
from epg.diffusion.seeds import derive_seed, generator_for
from epg.training.schedules import ema_decay_at, learning_rate_at, stage_at


def config(**changed: Any) -> OptimizerConfig:
    content = {"steps": 1_000_000, "batch_size": 8, "learning_rate": 1e-4, "warmup_steps": 10_000}
    return OptimizerConfig.model_validate(content | changed)


def test_warm_up_then_cosine_to_zero() -> None:
    c = config()
    assert learning_rate_at(0, c) == pytest.approx(1e-8)
    assert learning_rate_at(4_999, c) == pytest.approx(5e-5)
    assert learning_rate_at(10_000, c) == pytest.approx(1e-4)
    assert learning_rate_at(505_000, c) == pytest.approx(5e-5)
    assert learning_rate_at(1_000_000, c) == pytest.approx(0, abs=1e-12)


def test_steps_of_the_consistency_schedule() -> None:
    content = {"steps": 700_000, "batch_size": 8, "learning_rate": 1e-4, "warmup_steps": 10_000}
    c = ConsistencyConfig.model_validate(content)  # the drops are the default
    for step, factor in (
        (10_000, 1),
        (399_999, 1),
        (400_000, 0.3),
        (499_999, 0.3),
        (500_000, 0.08),
        (699_999, 0.08),
    ):
        assert learning_rate_at(step, c) == pytest.approx(1e-4 * factor)


def test_ema_decay_grows_to_its_bound() -> None:
    assert ema_decay_at(0, 0.9999, warmup=False) == 0.9999
    assert ema_decay_at(0, 0.99, warmup=True) == pytest.approx(0.1)
    assert ema_decay_at(10**6, 0.99, warmup=True) == 0.99


def test_a_stage_lasts_its_steps() -> None:
    per_stage = ConsistencyConfig.model_fields["steps_per_stage"].default
    expected = {0: 1, 99_999: 1, 100_000: 2, 600_000: 7, 699_999: 7}
    assert {step: stage_at(step, per_stage) for step in expected} == expected


def test_demonstrations_pass_the_stages_of_their_length() -> None:
    for name, stages in (("digits", 3), ("smoke", 5)):
        config = load_recipe(name).consistency
        assert stage_at(config.steps - 1, config.steps_per_stage) == stages


def test_seeds_depend_on_every_part() -> None:
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    assert len({derive_seed(s, n, k) for s in (0, 1) for n in "ab" for k in (0, 1)}) == 8
    assert generator_for(3).initial_seed() == derive_seed(3)

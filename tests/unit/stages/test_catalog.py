"""The one table of stages."""

import pytest

from epg.errors import UserError
from epg.stages.catalog import (
    OBJECTIVES,
    STAGES,
    find_stage,
    kind_of,
    stages_after,
    stages_of,
    stages_of_kind,
)


def test_every_stage_has_its_place():
    assert len(STAGES) == 13
    for position, (name, stage) in enumerate(STAGES.items()):
        assert set(stage.needs) <= set(list(STAGES)[:position]), name


def test_what_follows_a_stage():
    assert stages_after("gate-denoising") == ["gate-denoising", "register-denoising"]
    assert stages_after("report") == ["report"]
    assert "count-gflops" not in stages_after("shard")
    assert len(stages_after("shard")) == 11
    assert "evaluate-consistency" in stages_after("reference-statistics")
    assert "finetune-consistency" not in stages_after("reference-statistics")


def test_a_branch_that_is_not_wanted_is_not_met():
    assert not [name for name in stages_of(["denoising"]) if "consistency" in name]
    assert stages_of(["denoising", "consistency"]) == list(STAGES)


def test_a_stage_is_found_by_its_step_and_objective():
    assert find_stage("finetune", "consistency").name == "finetune-consistency"
    assert find_stage("shard") is STAGES["shard"]
    with pytest.raises(UserError, match="objective 'both': use denoising or consistency"):
        find_stage("gate", "both")


def test_kinds():
    assert kind_of("evaluate") == kind_of("evaluate-denoising") == "judging"
    assert [stage.name for stage in stages_of_kind("training")] == [
        "pretrain",
        *(f"finetune-{objective}" for objective in OBJECTIVES),
    ]
    with pytest.raises(KeyError):
        kind_of("bake")


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_stage_has_its_function(stage):
    assert stage.function().__name__ == stage.step.replace("-", "_")

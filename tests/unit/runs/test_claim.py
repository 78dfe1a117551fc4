"""Two pipeline runs of one name: the same recipe, or one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.runs.claim import CLAIM_KEY, ENDED_KEY, release_recipe, settle_recipe
from epg.runs.entry import Component
from epg.runs.perform import perform
from epg.runs.run import PIPELINE_RUN_VARIABLE, RECIPE_KEY, Run
from epg.stages.catalog import STAGES
from epg.stages.report import report
from epg.store.lease import InUse

FIRST, SECOND = "11111111-aaaa", "22222222-bbbb"
OTHER = {"evaluate.num_samples": 33, "pretrain.steps": 7}


def opened(tmp_path: Path, overrides: dict | None = None) -> Run:
    return Run.open("smoke", overrides or {}, str(tmp_path), "mine")


@pytest.fixture
def belongs_to(monkeypatch):
    return lambda name: monkeypatch.setenv(PIPELINE_RUN_VARIABLE, name)


def kept_recipe(run: Run):
    return load_recipe(run.store.get_bytes(RECIPE_KEY).decode())


def test_a_second_pipeline_run_of_another_recipe_is_told_what_differs(tmp_path, belongs_to):
    first = opened(tmp_path)
    belongs_to(FIRST)
    settle_recipe(first)
    belongs_to(SECOND)
    with pytest.raises(InUse) as caught:
        settle_recipe(opened(tmp_path, OTHER))
    said = str(caught.value)
    for part in (FIRST, " since ", "evaluate.num_samples: ", "-> 33", "pretrain.steps: ", "-> 7"):
        assert part in said
    assert f"epg terminate {FIRST}" in said
    assert "\n" not in said
    assert kept_recipe(first) == first.recipe


def test_the_same_recipe_may_go_on(tmp_path, belongs_to):
    for name in (FIRST, SECOND):
        belongs_to(name)
        settle_recipe(opened(tmp_path))
    release_recipe(opened(tmp_path))  # by the second one: the claim is the first one's
    assert json.loads(opened(tmp_path).store.get_bytes(CLAIM_KEY))["pipeline_run"] == FIRST


def test_another_recipe_may_come_once_the_first_run_has_ended(tmp_path, belongs_to):
    """As epg_evaluate does. The report is the last step, whatever happened before."""
    belongs_to(FIRST)
    settle_recipe(opened(tmp_path))
    report(opened(tmp_path))
    assert opened(tmp_path).store.size(CLAIM_KEY) is None
    belongs_to(SECOND)
    settle_recipe(opened(tmp_path, OTHER))
    assert kept_recipe(opened(tmp_path)).evaluate.num_samples == 33


def test_who_comes_back_after_its_report_leaves_no_claim(tmp_path, belongs_to):
    """*Retry* in the UI: the same pipeline run's failed steps, without a report at the end."""
    belongs_to(FIRST)
    settle_recipe(opened(tmp_path))
    report(opened(tmp_path))
    settle_recipe(opened(tmp_path))
    assert opened(tmp_path).store.size(CLAIM_KEY) is None
    belongs_to(SECOND)
    settle_recipe(opened(tmp_path, OTHER))
    belongs_to(FIRST)
    with pytest.raises(InUse, match=SECOND):
        settle_recipe(opened(tmp_path))


def test_ends_are_remembered_up_to_a_number(tmp_path, belongs_to):
    names = [f"{number:08d}-aaaa" for number in range(25)]
    for name in names:
        belongs_to(name)
        release_recipe(opened(tmp_path))
    content = json.loads(opened(tmp_path).store.get_bytes(ENDED_KEY))
    assert content["pipeline_runs"] == names[-20:]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"pipeline_runs": ["11111111-aaaa"]}', b"\xff"])
def test_ends_that_are_garbage_end_nothing(tmp_path, belongs_to, data):
    opened(tmp_path).store.put_bytes(ENDED_KEY, data)
    belongs_to(FIRST)
    settle_recipe(opened(tmp_path))
    assert opened(tmp_path).store.size(CLAIM_KEY) is not None


def test_the_report_of_a_refused_run_leaves_the_other_one_alone(tmp_path, belongs_to):
    belongs_to(FIRST)
    settle_recipe(opened(tmp_path))
    belongs_to(SECOND)
    with pytest.raises(InUse, match=FIRST):
        report(opened(tmp_path, OTHER))
    left = {info.key for info in opened(tmp_path).store.list()}
    assert left == {CLAIM_KEY, RECIPE_KEY, ENDED_KEY}  # a retry of the second one has no report


def test_a_refused_step_leaves_no_failure_in_the_run_of_the_other_one(tmp_path, belongs_to, capsys):
    belongs_to(FIRST)
    settle_recipe(opened(tmp_path))
    belongs_to(SECOND)

    def shard(run):
        return perform(run, STAGES["shard"], config={}, inputs={}, work=lambda *_: None)

    with pytest.raises(SystemExit) as caught:
        Component(shard)(recipe="smoke", overrides=OTHER, store=str(tmp_path), run_name="mine")
    assert caught.value.code == 2
    assert FIRST in capsys.readouterr().err
    assert not list(opened(tmp_path).store.list("failures/"))


def test_outside_a_cluster_the_lock_is_enough(tmp_path, monkeypatch):
    monkeypatch.delenv(PIPELINE_RUN_VARIABLE, raising=False)
    settle_recipe(opened(tmp_path))
    settle_recipe(opened(tmp_path, OTHER))
    assert kept_recipe(opened(tmp_path)).pretrain.steps == 7
    assert opened(tmp_path).store.size(CLAIM_KEY) is None


UNSEALED = b'{"pipeline_run": "22222222-bbbb", "since": 1.0, "recipe": {"seed": 9}}'


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 9999, b'{"recipe": {}, "since": 1e300}', UNSEALED]
)
def test_a_claim_that_is_garbage_claims_nothing(tmp_path, belongs_to, data):
    run = opened(tmp_path)
    run.store.put_bytes(CLAIM_KEY, data)
    belongs_to(SECOND)
    try:
        settle_recipe(run)
    except UserError as error:
        pytest.fail(str(error))
    assert kept_recipe(run) == run.recipe


def test_a_recurring_run_may_have_a_name_of_its_own_each_time(tmp_path, belongs_to, monkeypatch):
    belongs_to("2f1c9a52-6f0b-4d3e")
    run = Run.open("smoke", {}, str(tmp_path), "nightly-{run}")
    assert run.name == "nightly-2f1c9a52"
    assert run.store.uri.endswith("/nightly-2f1c9a52")
    monkeypatch.delenv(PIPELINE_RUN_VARIABLE)
    with pytest.raises(UserError, match="run name 'nightly-{run}'"):
        Run.open("smoke", {}, str(tmp_path), "nightly-{run}")

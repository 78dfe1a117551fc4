"""`EPG_REUSE_ONLY`: an evaluation of an existing run never begins to train."""

from __future__ import annotations

import pytest

from epg.stages.catalog import STAGES
from epg.errors import UserError
from epg.runs.perform import perform
from epg.runs.run import Run

NOTHING: dict = {"config": {}, "inputs": {}}


@pytest.fixture
def run(tmp_path):
    return Run.open("smoke", {}, str(tmp_path), "a")


def refuse(reporter, outputs):
    raise AssertionError("this must not be done")


def test_a_training_stage_without_a_result_is_refused_before_anything_is_written(
    run, monkeypatch, tmp_path
):
    monkeypatch.setenv("EPG_REUSE_ONLY", "1")
    with pytest.raises(UserError, match=r"'pretrain' of run 'a' has no result.*epg_full\.yaml"):
        perform(run, STAGES["pretrain"], work=refuse, **NOTHING)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_result_that_is_there_is_reused(run, monkeypatch):
    record = perform(run, STAGES["pretrain"], work=lambda *_: None, **NOTHING)
    monkeypatch.setenv("EPG_REUSE_ONLY", "1")
    assert perform(run, STAGES["pretrain"], work=refuse, **NOTHING) == record


def test_other_stages_do_their_work(run, monkeypatch):
    monkeypatch.setenv("EPG_REUSE_ONLY", "1")
    assert perform(run, STAGES["evaluate-denoising"], work=lambda *_: None, **NOTHING).stage

"""A finished stage pushes its outcome once; a Pushgateway that is down stops nothing."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from epg.stages.catalog import STAGES
from epg.runs import perform as performing
from epg.runs.perform import perform
from epg.runs.record import load_record
from epg.runs.run import Run

NOTHING: dict = {"config": {}, "inputs": {}}


@pytest.fixture
def run(tmp_path):
    return Run.open("smoke", {}, str(tmp_path / "store"), "mine")


def work(reporter, outputs):
    outputs.metrics.update(loss=1.5, step=4)


def test_once_when_the_record_is_stored_and_not_when_it_is_reused(run, monkeypatch):
    pushed = []

    def push(outcome, warn):
        assert load_record(run, "pretrain") is not None
        pushed.append(outcome)

    monkeypatch.setattr(performing, "push_outcome", push)
    record = perform(run, STAGES["pretrain"], work=work, **NOTHING)
    assert perform(run, STAGES["pretrain"], work=work, **NOTHING) == record
    (outcome,) = pushed
    assert (outcome.kind, outcome.step) == ("training", "pretrain")
    assert (outcome.recipe, outcome.run) == ("smoke", "mine")
    assert outcome.metrics == {"loss": 1.5, "step": 4}
    assert outcome.duration_seconds == record.duration_seconds
    finished = datetime.fromisoformat(record.finished).timestamp()
    assert outcome.finished == pytest.approx(finished, abs=1)


def test_not_when_it_failed(run, monkeypatch):
    monkeypatch.setattr(performing, "push_outcome", lambda *_, **__: pytest.fail("pushed"))

    def fail(reporter, outputs):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        perform(run, STAGES["pretrain"], work=fail, **NOTHING)


def test_a_pushgateway_that_is_down_costs_one_warning(run, monkeypatch, tmp_path):
    monkeypatch.setenv("EPG_PUSHGATEWAY", "http://127.0.0.1:1")
    monkeypatch.setenv("EPG_EVENTS", str(tmp_path / "events"))
    record = perform(run, STAGES["pretrain"], work=work, **NOTHING)
    assert load_record(run, "pretrain") == record
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", "warning", "finished"]
    assert events[1]["text"].startswith("outcome not pushed to http://127.0.0.1:1 (Connection ref")

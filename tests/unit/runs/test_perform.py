"""A stage does its work once, and one at a time: also between processes and pods."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from epg.errors import UserError
from epg.runs.perform import perform
from epg.runs.record import StageRecord, load_record
from epg.runs.run import PIPELINE_RUN_VARIABLE, Run
from epg.stages.catalog import STAGES
from epg.store import lease as leases
from tests.toys.command import PATIENCE, environment

NOTHING: dict = {"config": {}, "inputs": {}}
SHARD = STAGES["shard"]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.open("smoke", {}, str(tmp_path / "store"), "mine")


def lease_files(run: Run) -> list[str]:
    return [info.key for info in run.store.list("leases/")]


def test_a_second_one_is_told_who_is_at_it(run):
    seen = []

    def work(reporter, outputs):
        seen.extend(lease_files(run))
        with pytest.raises(UserError, match=r"in use by stage shard of run mine \(host"):
            perform(run, SHARD, work=lambda *_: seen.append("twice"), **NOTHING)

    perform(run, SHARD, work=work, **NOTHING)
    assert seen == ["leases/shard"]
    assert lease_files(run) == []


def test_on_a_cluster_the_pipeline_run_is_named(run, monkeypatch):
    """Its user ends it by that id."""
    monkeypatch.setenv(PIPELINE_RUN_VARIABLE, "11111111-aaaa")

    def work(reporter, outputs):
        with pytest.raises(UserError, match="run mine, pipeline run 11111111-aaaa \\(host"):
            perform(run, SHARD, work=lambda *_: None, **NOTHING)

    perform(run, SHARD, work=work, **NOTHING)


def test_who_was_waiting_takes_what_the_other_one_made(run, monkeypatch):
    """Between the first look and the lease another process finished the stage."""
    done: list[StageRecord] = []
    monkeypatch.setattr("epg.runs.perform.Lease", lambda *_: Other(run, done))
    record = perform(run, SHARD, work=lambda *_: pytest.fail("worked again"), **NOTHING)
    assert record == done[0]


class Other:
    def __init__(self, run, done):
        self.run, self.done = run, done

    def __enter__(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("epg.runs.perform.Lease", leases.Lease)
            self.done.append(perform(self.run, SHARD, work=lambda *_: None, **NOTHING))
        return self

    def __exit__(self, *_):
        return None


def test_a_process_that_died_keeps_nobody_out(run):
    program = (
        "import os, sys\n"
        "from epg.runs.run import Run\n"
        "from epg.runs.perform import perform\n"
        "from epg.stages.catalog import STAGES\n"
        f"run = Run.open('smoke', {{}}, {run.store_uri!r}, 'mine')\n"
        "perform(run, STAGES['shard'], config={}, inputs={}, work=lambda *_: os._exit(9))\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", program], env=environment(toys=False), check=False, timeout=PATIENCE
    )
    assert died.returncode == 9
    assert lease_files(run) == ["leases/shard"]
    assert perform(run, SHARD, work=lambda *_: None, **NOTHING).stage == "shard"


def test_who_lost_the_lease_writes_no_record(run, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.02)

    def work(reporter, outputs):
        held = leases.Holder.from_json(run.store.get_bytes("leases/shard"))
        assert held is not None
        other = replace(held, token="0" * 32)
        for _ in range(2000):  # a beat that was under way may have written once more
            run.store.put_bytes("leases/shard", other.to_json())
            time.sleep(0.01)
            if not any(thread.name == "epg-lease" for thread in threading.enumerate()):
                return
        pytest.fail("the holder never noticed")

    with pytest.raises(UserError, match="in use by stage shard of run mine"):
        perform(run, SHARD, work=work, **NOTHING)
    assert load_record(run, "shard") is None


def old_record(run: Run, stage: str, **changes) -> None:
    """Leave the record of a finished stage as version 0.1 wrote it."""
    record = {
        "stage": stage,
        "fingerprint": "0" * 64,
        "config": {"seed": 0, "pretrain": {"steps": 10, "gone": 3}},
        "inputs": {"shards": "1" * 64},
        "outputs": {},
        "metrics": {"loss": 1.5},
        "details": {},
        "started": "2026-01-31T12:00:00+00:00",
        "finished": "2026-01-31T12:01:00+00:00",
        "duration_seconds": 60.0,
        "versions": {"epg": "0.1.0"},
        "status": "succeeded",
        **changes,
    }
    run.store.put_bytes(f"stages/{stage}.json", json.dumps(record).encode())


def fail(reporter, outputs):
    pytest.fail("worked again")


def test_the_record_of_another_stage_is_not_believed(run):
    perform(run, SHARD, work=lambda *_: None, **NOTHING)
    run.store.put_bytes("stages/pretrain.json", run.store.get_bytes("stages/shard.json"))
    with pytest.raises(UserError, match="it is that of stage 'shard'; put back a copy"):
        load_record(run, "pretrain")


SETTINGS = {"seed": 0, "pretrain": {"steps": 10}}
DATA = {"shards": "1" * 64}


def test_what_an_earlier_version_trained_is_kept(run, capsys):
    old_record(run, "pretrain", config=SETTINGS)
    kept = perform(run, STAGES["pretrain"], config=SETTINGS, inputs=DATA, work=fail)
    assert kept.metrics == {"loss": 1.5}
    assert "pretrain: warning: made by epg 0.1.0, and kept" in capsys.readouterr().err


def test_what_it_trained_otherwise_is_refused_in_one_line(run):
    old_record(run, "pretrain")
    with pytest.raises(UserError) as caught:
        perform(run, STAGES["pretrain"], config=SETTINGS, inputs=DATA, work=fail)
    assert "by epg 0.1.0 with other settings (pretrain.gone: 3 -> absent)" in str(caught.value)
    assert str(caught.value).endswith("throw them away with `--from pretrain`")


def test_other_data_are_named(run):
    old_record(run, "pretrain", config=SETTINGS)
    with pytest.raises(UserError, match="what it is made from has changed: shards"):
        perform(run, STAGES["pretrain"], config=SETTINGS, inputs={"shards": "2" * 64}, work=fail)


def test_what_takes_no_training_is_made_anew(run):
    old_record(run, "gate-denoising", config={}, inputs={})
    done = perform(run, STAGES["gate-denoising"], work=lambda *_: None, **NOTHING)
    assert done.versions["epg"] != "0.1.0"

import json

import pytest

from epg.console.board import Board, EventTail
from epg.stages.catalog import STAGES


def event(stage, kind, time=100.0, **fields):
    return {"time": time, "stage": stage, "event": kind, **fields}


def progress(done, time, total=100, **values):
    return event("pretrain", "progress", time, done=done, total=total, unit="steps", values=values)


def test_a_stage_runs_and_ends():
    board = Board(list(STAGES))
    state = board.stages["pretrain"]
    board.take(event("pretrain", "started", 100.0))
    board.take(progress(10, 102.0, loss=0.5))
    board.take(progress(20, 104.0, loss=0.4, images_per_second=30.0))
    assert (state.state, state.done, state.total) == ("running", 20, 100)
    assert state.values["loss"] == 0.4
    assert state.seconds_left(104.0) == pytest.approx(16.0)
    board.take(event("pretrain", "finished", 120.0))
    assert (state.state, state.seconds(999.0)) == ("done", 20.0)
    assert state.seconds_left(121.0) is None


def test_time_left_after_a_resume_counts_from_where_it_resumed():
    board = Board(["pretrain"])
    board.take(progress(90, 100.0))
    board.take(progress(95, 110.0))
    assert board.stages["pretrain"].seconds_left(110.0) == pytest.approx(10.0)


def test_reused_failed_skipped_and_cut_off():
    board = Board(["shard", "pretrain", "finetune-denoising", "report"])
    board.take(event("shard", "reused", text="2026-01-01"))
    board.take(event("pretrain", "started"))
    board.take(event("pretrain", "failed", text="loss is nan"))
    board.take(event("report", "started"))
    board.close()
    states = [state.state for state in board.stages.values()]
    assert states == ["reused", "failed", "skipped", "failed"]
    assert [state.text for state in board.failed] == ["loss is nan", ""]


def test_the_metrics_address_is_kept():
    board = Board(["pretrain"])
    board.take(event("pretrain", "message", text="metrics at http://127.0.0.1:9464/metrics"))
    board.take(event("pretrain", "warning", text="port 9464 is taken"))
    board.take(event("nobody", "started"))
    assert board.metrics_url == "http://127.0.0.1:9464/metrics"


def test_only_whole_lines_are_read(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    whole, other = json.dumps(event("shard", "started")), json.dumps(event("shard", "finished"))
    with path.open("w") as file:
        file.write(whole + "\nnot json\n[1]\n" + other[:10])
        file.flush()
        assert [e["event"] for e in tail.read()] == ["started"]
        file.write(other[10:] + "\n")
        file.flush()
    assert [e["event"] for e in tail.read()] == ["finished"]
    assert tail.read() == []

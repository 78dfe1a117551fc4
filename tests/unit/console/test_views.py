import io
import re

import pytest
from rich.console import Console

from epg.console.board import Board
from epg.console.views import LiveView, PlainView, open_view

SCRIPT = [
    {"time": 100.0, "stage": "shard", "event": "reused", "text": "2026-01-01"},
    {"time": 100.0, "stage": "pretrain", "event": "started"},
    {"time": 100.5, "stage": "pretrain", "event": "warning", "text": "port [9464] is taken"},
    {
        "time": 101.0,
        "stage": "pretrain",
        "event": "progress",
        "done": 25,
        "total": 100,
        "unit": "steps",
        "values": {"loss": 0.51234, "images_per_second": 301.4},
    },
    {"time": 104.0, "stage": "pretrain", "event": "finished"},
    {"time": 105.0, "stage": "gate-denoising", "event": "failed", "text": "no such metric"},
]
STAGES = ["shard", "pretrain", "gate-denoising", "register-denoising"]


def play(view, board, events):
    for event in events:
        board.take(event)
        view.update(board, event)


def test_plain_lines():
    stream, board = io.StringIO(), Board(STAGES)
    view = PlainView(stream)
    play(view, board, SCRIPT)
    board.close()
    view.close(board)
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in stream.getvalue().splitlines()]
    assert lines[:3] == [
        "shard: already done",
        "pretrain: started",
        "pretrain: warning: port [9464] is taken",
    ]
    assert lines[3].startswith("pretrain: 25/100 steps, loss 0.5123, 301 images/s")
    assert lines[4:] == [
        "pretrain: done in 4.0 s",
        "gate-denoising: started",
        "gate-denoising: failed: no such metric",
        "register-denoising: skipped",
    ]


def test_plain_progress_is_thinned_out(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("epg.console.views.time.time", lambda: now[0])
    stream, board = io.StringIO(), Board(["pretrain"])
    view = PlainView(stream)
    for step in range(100):  # 0.25 s apart
        now[0] = 1000.0 + step / 4
        event = {"stage": "pretrain", "event": "progress", "done": step, "total": 100}
        play(view, board, [{**event, "time": now[0]}])
    assert len(re.findall("/100", stream.getvalue())) == 2


def drawn(board, width=100):
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    view = LiveView(board, console)
    play(view, board, [])
    view.close(board)
    return view, console


def test_the_live_table_shows_every_stage_and_the_running_one_in_full(monkeypatch):
    monkeypatch.setattr("epg.console.views.time.time", lambda: 103.0)
    board = Board(STAGES)
    for event in [*SCRIPT[:4], {**SCRIPT[3], "time": 103.0, "done": 50}]:
        board.take(event)
    board.take({"stage": "pretrain", "event": "message", "text": "http://127.0.0.1:1/metrics"})
    view, _ = drawn(board)
    stream = io.StringIO()
    Console(width=100, file=stream).print(view.draw(board))
    text = stream.getvalue()
    assert "✓ shard" in " ".join(text.split())
    running = next(line for line in text.splitlines() if "pretrain" in line)
    assert "50/100 loss 0.5123, 301 images/s, 4.0 s left" in running
    assert running.rstrip().endswith("3.0 s")
    assert "metrics: http://127.0.0.1:1/metrics" in text


@pytest.mark.parametrize("width", [20, 43, 80, 200])
def test_the_live_table_keeps_to_one_line_per_stage(width):
    board = Board(STAGES)
    for event in SCRIPT:
        board.take(event)
    view, _ = drawn(board, width)
    stream = io.StringIO()
    Console(width=width, file=stream).print(view.draw(board))
    assert len(stream.getvalue().splitlines()) == len(STAGES)


def test_no_cursor_is_moved_where_there_is_no_terminal():
    assert isinstance(open_view(io.StringIO(), Board(STAGES)), PlainView)

"""Nothing that others say reaches the terminal raw."""

from __future__ import annotations

import pytest

from epg.cli.guarded import guarded
from epg.console.board import Board
from epg.console.views import PlainView
from epg.errors import UserError
from epg.telemetry.progress import StageReporter
from epg.text import printable

EVIL = "\x1b[2J\x1b]0;owned\x07\r\n\u202egnp\ud800"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\r\n\u202egnp\ud800"


def test_what_is_escaped_and_what_stays() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"
    plain = "Größe 10 000 — 图像 \U0001f600 x\u00a0y"
    assert printable(plain) == plain


def test_errors_progress_and_views_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UserError(f"the server says: {EVIL}")

    assert guarded(fail, debug=True) == 2
    StageReporter("shard").warning(f"class {EVIL}")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert err.count(SHOWN) >= 2


def test_a_board_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    board = Board(["shard"])
    view = PlainView(sys.stdout)
    for event in ({"event": "warning", "text": EVIL}, {"event": "failed", "text": EVIL}):
        board.take({"stage": "shard", **event})
        view.update(board, {"stage": "shard", **event})
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count(SHOWN) == 2

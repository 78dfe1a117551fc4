"""How a run looks while it runs: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from epg.console.board import Board, StageState
from epg.numbers import duration
from epg.stages.catalog import STAGES
from epg.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_LINE_INTERVAL = 10.0  # seconds between two plain lines of one stage
_SYMBOLS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "cyan"),
    "done": ("✓", "green"),
    "reused": ("✓", "green"),
    "skipped": ("–", "dim"),
    "failed": ("✗", "red"),
}


class View(Protocol):
    """Shows a board; `update` is called after each event and a few times a second besides."""

    def update(self, board: Board, event: dict[str, Any] | None = None) -> None:
        """Show the board as it is now, and what the event says."""

    def close(self, board: Board) -> None:
        """Show the last state and give the terminal back."""


def open_view(stream: TextIO, board: Board) -> View:
    """Return a live view when `stream` is a terminal that can move its cursor."""
    import os

    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveView(board)
    return PlainView(stream)


def described(state: StageState, now: float) -> str:
    """How far a running stage is: loss, pace, time left."""
    parts = []
    if "loss" in state.values:
        parts.append(f"loss {state.values['loss']:.4g}")
    if "images_per_second" in state.values:
        parts.append(f"{state.values['images_per_second']:.0f} images/s")
    if not parts:
        parts += [f"{k.replace('_', ' ')} {v:.4g}" for k, v in list(state.values.items())[:2]]
    left = state.seconds_left(now)
    if left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


class PlainView:
    """Start and end of every stage, and a line of progress about every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, flushed line by line."""
        self._stream = stream
        self._shown: dict[str, float] = {}
        self._states: dict[str, str] = {}

    def update(self, board: Board, event: dict[str, Any] | None = None) -> None:
        """Write what is new."""
        now = time.time()
        for state in board.stages.values():
            if self._states.get(state.name, "waiting") != state.state:
                self._changed(state, now)
            elif state.state == "running" and state.total and self._due(state, now):
                what = f"{state.done}/{state.total} {state.unit}"
                self._line(f"{state.name}: {what}, {described(state, now)}".rstrip(", "))
        if event is not None and event.get("event") in ("message", "warning"):
            mark = "warning: " if event["event"] == "warning" else ""
            self._line(f"{event.get('stage')}: {mark}{event.get('text', '')}")

    def close(self, board: Board) -> None:
        """Write the last changes."""
        self.update(board)

    def _due(self, state: StageState, now: float) -> bool:
        due = now - self._shown.get(state.name, state.started) >= _LINE_INTERVAL
        if due:
            self._shown[state.name] = now
        return due

    def _changed(self, state: StageState, now: float) -> None:
        before = self._states.get(state.name, "waiting")
        self._states[state.name] = state.state
        if before == "waiting" and state.state in ("done", "failed"):
            self._line(f"{state.name}: started")
        took = f" in {duration(state.seconds(now))}" if state.state == "done" else ""
        words = {
            "running": "started",
            "done": f"done{took}",
            "reused": "already done",
            "skipped": "skipped",
            "failed": f"failed: {state.text}" if state.text else "failed",
        }
        self._line(f"{state.name}: {words[state.state]}")

    def _line(self, text: str) -> None:
        self._stream.write(f"{time.strftime('%H:%M:%S')} {printable(text)}\n")
        self._stream.flush()


class LiveView:
    """All stages in one table that is drawn anew a few times a second."""

    def __init__(self, board: Board, console: Console | None = None) -> None:
        """Take over the bottom of the terminal until `close`."""
        from rich.console import Console as RichConsole
        from rich.live import Live

        console = console or RichConsole()
        self._live = Live(self.draw(board), console=console, auto_refresh=False)
        self._live.start(refresh=True)

    def update(self, board: Board, event: dict[str, Any] | None = None) -> None:
        """Draw the board; warnings stay above it."""
        if event is not None and event.get("event") == "warning":
            text = printable(f"{event.get('stage')}: warning: {event.get('text', '')}")
            self._live.console.print(text, style="yellow", markup=False, highlight=False)
        self._live.update(self.draw(board), refresh=True)

    def close(self, board: Board) -> None:
        """Draw the last state and leave it on the screen."""
        self._live.update(self.draw(board), refresh=True)
        self._live.stop()

    def draw(self, board: Board) -> RenderableType:
        """Return the table of all stages, with the address of the metrics below."""
        from rich.console import Group
        from rich.text import Text

        now = time.time()
        table = _empty_table()
        for state in board.stages.values():
            table.add_row(*_row(state, now))
        if board.metrics_url and board.running:
            return Group(table, Text(f"  metrics: {printable(board.metrics_url)}", style="dim"))
        return table


def _empty_table() -> Table:
    from rich.table import Table as RichTable

    table = RichTable(box=None, show_header=False, padding=(0, 1), expand=False)
    # What cannot be shown in full on a narrow terminal is the description of the running stage.
    table.add_column(width=1, min_width=1)
    table.add_column(no_wrap=True, min_width=max(map(len, STAGES)))
    table.add_column(no_wrap=True, overflow="crop")
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True, min_width=10)
    return table


def _row(state: StageState, now: float) -> list[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    symbol, style = _SYMBOLS[state.state]
    took = duration(state.seconds(now)) if state.state in ("running", "done", "failed") else ""
    bar: RenderableType = Text("")
    words = {"reused": "already done", "skipped": "skipped"}.get(state.state, "")
    if state.state == "running":
        words = described(state, now)
        if state.total:
            bar = ProgressBar(total=state.total, completed=state.done, width=16)
            words = f"{state.done}/{state.total} {words}"
    elif state.state == "failed":
        words = state.text
    name = Text(state.name, style="bold" if state.state == "running" else style)
    return [Text(symbol, style=style), name, bar, Text(printable(words), style=style), Text(took)]

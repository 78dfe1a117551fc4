"""What a stage tells the outside while it works: events, a bar, or plain lines.

Under `epg run` every stage is a process of its own; it appends JSON lines to the file named by
`EPG_EVENTS` and the parent draws them. On its own (`epg pretrain ...`) a stage draws a bar on a
terminal and prints plain lines otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

EVENTS_VARIABLE = "EPG_EVENTS"
_EVENT_INTERVAL = 0.25  # seconds between two progress events of one stage
_LINE_INTERVAL = 10.0  # seconds between two plain lines


class StageReporter:
    """Progress of one stage. Never raises for want of a place to write to."""

    def __init__(self, stage: str) -> None:
        """Choose the outlet from the environment: events file, terminal, or plain lines."""
        self.stage = stage
        self._path = os.environ.get(EVENTS_VARIABLE)
        self._started = time.monotonic()
        self._last = -1e9
        self._progress: Progress | None = None

    def started(self) -> None:
        """Say that the work begins."""
        self._emit("started", line=f"{self.stage}: started")

    def reused(self, finished: str) -> None:
        """Say that an earlier result stands, and when it was made."""
        self._emit("reused", line=f"{self.stage}: already done ({finished})", text=finished)

    def finished(self, metrics: dict[str, Any]) -> None:
        """Say that the work is done and its record written."""
        self._close_bar()
        seconds = time.monotonic() - self._started
        self._emit("finished", line=f"{self.stage}: done in {seconds:.1f} s", values=metrics)

    def failed(self, text: str) -> None:
        """Say why the stage stopped, in one line."""
        self._close_bar()
        self._emit("failed", text=text)

    def message(self, text: str) -> None:
        """Say something worth knowing."""
        self._emit("message", line=f"{self.stage}: {text}", text=text)

    def warning(self, text: str) -> None:
        """Say something worth mending that does not stop the work."""
        self._emit("warning", line=f"{self.stage}: warning: {text}", text=text)

    def progress(self, done: int, total: int, unit: str = "steps", **values: float) -> None:
        """Show how far the work is; calls in quick succession are thinned out."""
        now = time.monotonic()
        if done < total:
            on_terminal = self._path is None and sys.stderr.isatty()
            interval = _EVENT_INTERVAL if self._path or on_terminal else _LINE_INTERVAL
            if now - self._last < interval:
                return
        self._last = now
        if self._path is None and sys.stderr.isatty():
            self._draw(done, total, unit, values)
            return
        shown = " ".join(f"{name}={value:.4g}" for name, value in values.items())
        line = f"{self.stage}: {done}/{total} {unit} {shown}".rstrip()
        self._emit("progress", line=line, done=done, total=total, unit=unit, values=values)

    def _draw(self, done: int, total: int, unit: str, values: dict[str, float]) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._progress.add_task(f"{self.stage} ({unit})", total=total, shown="")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        (bar,) = self._progress.task_ids
        self._progress.update(bar, completed=done, total=total, shown=shown)

    def _close_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _emit(self, event: str, line: str = "", **fields: Any) -> None:
        if self._path is None:
            # The reader may be gone: a pod's log ends before its step does.
            with contextlib.suppress(OSError):
                if line:
                    print(printable(line), file=sys.stderr, flush=True)
            return
        record = {"time": time.time(), "stage": self.stage, "event": event, **fields}
        try:
            # One short write in append mode: lines of several processes do not mix.
            with Path(self._path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, default=str) + "\n")
        except OSError as error:
            print(f"{self.stage}: cannot write {self._path}: {error}", file=sys.stderr)
            self._path = None

"""The state of every stage of a run, built from the events that the stages append to a file."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epg.documents import DocumentError, parse_object, shaped

ENDED = ("done", "reused", "skipped", "failed")
_EVENT = {
    **dict.fromkeys(("stage", "event", "text", "unit"), str),
    **dict.fromkeys(("done", "total"), int),
    "time": float,
    "values": {"": float},
}
_URL = re.compile(r"https?://\S+/metrics")


@dataclass
class StageState:
    """One stage: waiting, running, done, reused, skipped or failed; and how far it is."""

    name: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    unit: str = ""
    values: dict[str, float] = field(default_factory=dict)
    text: str = ""
    started: float = 0.0
    ended: float = 0.0
    _first: tuple[float, int] | None = None  # time and count of the first progress

    def seconds(self, now: float) -> float:
        """How long it has run so far, or took."""
        return (self.ended or now) - self.started if self.started else 0.0

    def seconds_left(self, now: float) -> float | None:
        """How long it will still take at the pace so far; None while that is a guess."""
        if self._first is None or self.state != "running":
            return None
        since, count = now - self._first[0], self.done - self._first[1]
        return since / count * (self.total - self.done) if count > 0 and since > 1 else None

    def take(self, event: dict[str, Any]) -> None:
        """Follow one event of this stage."""
        kind, moment = event.get("event"), float(event.get("time") or time.time())
        if kind in ("started", "progress", "message", "warning") and self.state == "waiting":
            self.state, self.started = "running", moment
        if kind == "started":
            self.state, self.started, self.ended, self._first = "running", moment, 0.0, None
        elif kind == "progress":
            self.done, self.total = int(event.get("done", 0)), int(event.get("total", 0))
            self.unit = str(event.get("unit", ""))
            self.values = dict(event.get("values") or {})
            if self._first is None or self.done < self._first[1]:
                self._first = (moment, self.done)
        elif kind in ("finished", "reused", "failed"):
            self.state = "done" if kind == "finished" else str(kind)
            self.started = self.started or moment
            self.ended = moment
            self.text = str(event.get("text") or "")


class Board:
    """All stages of one run, and what was said."""

    def __init__(self, stages: list[str]) -> None:
        """Begin with every stage waiting."""
        self.stages = {name: StageState(name) for name in stages}
        self.metrics_url = ""

    def take(self, event: dict[str, Any]) -> None:
        """Follow one event; events of unknown stages are of no concern."""
        state = self.stages.get(str(event.get("stage")))
        if state is None:
            return
        text = str(event.get("text") or "")
        if event.get("event") == "message" and (url := _URL.search(text)):
            self.metrics_url = url.group()
        state.take(event)

    def close(self) -> None:
        """At the end of the run, what still waits was skipped, what runs was cut off."""
        for state in self.stages.values():
            if state.state == "waiting":
                state.state = "skipped"
            elif state.state == "running":
                state.state, state.ended = "failed", time.time()

    @property
    def running(self) -> list[StageState]:
        """The stages at work."""
        return [s for s in self.stages.values() if s.state == "running"]

    @property
    def failed(self) -> list[StageState]:
        """The stages that stopped with an error."""
        return [s for s in self.stages.values() if s.state == "failed"]


class EventTail:
    """Reads what other processes append to a file of JSON lines, whole lines only."""

    def __init__(self, path: Path) -> None:
        """Begin at the start of the file; it need not exist yet."""
        self._path, self._position, self._rest = path, 0, b""

    def read(self) -> list[dict[str, Any]]:
        """Return the events since the last call. Lines that are no JSON objects are left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = []
        for line in lines:
            with contextlib.suppress(DocumentError):
                events.append(shaped(parse_object(line, nan=True), _EVENT))
        return events

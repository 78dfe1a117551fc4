"""What could be learnt of a run, and how it is told to a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from epg.cluster.runs.pods import Progress, Trouble

_WORDS = {
    "PENDING": "is waiting to start",
    "RUNNING": "is running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "is being terminated",
    "CANCELED": "was terminated",
    "PAUSED": "is paused",
    "SKIPPED": "was skipped",
}


@dataclass(frozen=True)
class Task:
    """One step as the server shows it."""

    name: str
    state: str
    reason: str = ""
    progress: Progress | None = None
    waits: str = ""  # for what, as its log says


@dataclass(frozen=True)
class Situation:
    """All that could be learnt of a run."""

    run_id: str
    display_name: str
    state: str
    link: str
    error: str = ""
    tasks: list[Task] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    going: list[str] = field(default_factory=list)  # steps at work

    @property
    def problems(self) -> list[str]:
        """What does not go on, a line each."""
        return list(dict.fromkeys(trouble.line for trouble in self.troubles))

    @property
    def exit_code(self) -> int:
        """0 while nothing is wrong."""
        return 1 if self.state in ("FAILED", "CANCELED") or self.troubles else 0

    def lines(self) -> Iterator[str]:
        """Say it to a person."""
        now = _WORDS.get(self.state, f"is {self.state}")
        if self.state in ("PENDING", "RUNNING") and self.troubles:
            failed = any(task.state == "FAILED" for task in self.tasks)
            now = "goes on without the steps that failed" if failed else "stands still"
            if self.going and not failed:
                now = f"goes on ({', '.join(self.going)}) beside a step that waits"
        yield f"run {self.display_name} ({self.run_id}) {now}"
        if self.error:
            yield f"  the server says: {self.error}"
        width = max((len(task.name) for task in self.tasks), default=0)
        for task in self.tasks:
            text = task.reason or (task.progress.text if task.progress else "")
            reason = f"  {text}" if text else ""
            yield f"  {task.name:<{width}}  {task.state.lower()}{reason}".rstrip()
        told: set[str] = set()
        for trouble in self.troubles:
            if trouble.line in told:
                continue
            told.add(trouble.line)
            yield f"why: {trouble.line}"
            if trouble.log:
                yield f"     {trouble.log}"
        if self.state == "CANCELING" or self.state == "CANCELED":
            yield "a run of the same run_name goes on from its last checkpoint"
        for line in self.unseen:
            yield f"not seen: {line}"
        yield f"more: {self.link}"

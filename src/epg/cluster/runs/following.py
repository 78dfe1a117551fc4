"""Following a run to its end: a line at every change, and how far a running step is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from epg.cluster.runs.kfp_api import KfpApi
from epg.cluster.runs.refusals import Unreachable
from epg.cluster.runs.pods import Progress
from epg.cluster.runs.situation import Situation
from epg.cluster.runs.status import explain
from epg.errors import UserError
from epg.numbers import duration

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_PAUSE = 5.0  # seconds between two looks at a run
_PATIENCE = 300.0  # seconds without an answer before following is given up
_PROGRESS_EVERY = 30.0  # seconds between two lines of progress of one step


def follow(
    api: KfpApi,
    run_id: str,
    namespace: str | None,
    kubeconfig: str | None,
    say: Callable[[str], None],
) -> int:
    """Say what changes until the run ends; return 0 when it succeeded, else 1.

    A step that cannot start says so here: the server keeps such a run RUNNING for ever.

    Raises:
        UserError: the server has not answered for five minutes; the run goes on.
    """
    news = News()
    answered = time.monotonic()
    while True:
        try:
            found = explain(api, run_id, namespace, kubeconfig, logs=False)
            answered = time.monotonic()
        except Unreachable as error:
            if time.monotonic() - answered > _PATIENCE:
                raise UserError(
                    f"{error} (for {_PATIENCE:.0f} s; the run goes on: `epg status {run_id}`)"
                ) from error
            time.sleep(_PAUSE)
            continue
        for line in news.of(found, time.monotonic()):
            say(f"{datetime.now():%H:%M:%S}  {line}")
        if found.state in ENDED:
            break
        time.sleep(_PAUSE)
    if found.state == "SUCCEEDED":
        return 0
    for line in explain(api, run_id, namespace, kubeconfig).lines():
        say(line)
    return 1


@dataclass
class News:
    """What has been said of a run, so that nothing is said twice."""

    said: set[str] = field(default_factory=set)
    begun: dict[str, tuple[float, int]] = field(default_factory=dict)  # step -> first look
    told: dict[str, float] = field(default_factory=dict)  # step -> last line of progress

    def of(self, found: Situation, now: float) -> Iterator[str]:
        """Yield what is new, given the time of this look (seconds, monotonic)."""
        for task in found.tasks:
            yield from self._once(f"{task.name}: {task.state.lower()}")
            if task.progress is not None:
                yield from self._progress(task.name, task.progress, now)
        for line in (*found.problems, f"run {found.state.lower()}"):
            yield from self._once(line)

    def _once(self, line: str) -> Iterator[str]:
        if line not in self.said:
            self.said.add(line)
            yield line

    def _progress(self, step: str, progress: Progress, now: float) -> Iterator[str]:
        started, first = self.begun.setdefault(step, (now, progress.done))
        if progress.done == first or now - self.told.get(step, started) < _PROGRESS_EVERY:
            return
        self.told[step] = now
        left = (progress.total - progress.done) * (now - started) / (progress.done - first)
        yield f"{step}: {progress.text}, {duration(left)} left"

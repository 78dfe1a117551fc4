"""Looking at images by several processes of one machine, one for each GPU.

Each looks at its share and leaves parts in the store; nothing else passes between them, so the
first waits for the others at the end alone. `python -m epg.stages.shares TASK RANK SIZE` is one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from epg import children
from epg.errors import UserError, one_line
from epg.guard import watch_parent
from epg.stages.looks import LookTask, read_task
from epg.training.place import local_processes

if TYPE_CHECKING:
    from epg.evaluation.features.base import FeatureNetwork, Statistics
    from epg.evaluation.looking import TimedSource
    from epg.evaluation.parts import Whole
    from epg.store import Store
    from epg.telemetry.progress import StageReporter

_LOOK_SECONDS = 0.2
_GRACE = 10.0  # seconds that others have to end by themselves

#: Hears of (images seen, all images, values).
Progress = Callable[[int, int, dict[str, float]], None]


def look(
    task: LookTask,
    source: TimedSource,
    networks: Mapping[str, FeatureNetwork],
    store: Store,
    reporter: StageReporter,
    *,
    real: Statistics | None = None,
    progress: Progress | None = None,
) -> Whole:
    """Look at all images that no stored part holds; several processes take a share each.

    Args:
        task: what is looked at.
        source: its images, as this process has opened them.
        networks: likewise.
        store: of the run.
        reporter: hears of messages.
        real: what the first network sees in real images, for a running estimate of the distance.
        progress: default: the reporter hears of it.

    Raises:
        UserError: another process failed, or what it has stored cannot be read.
    """
    from epg.evaluation.looking import RANKED
    from epg.evaluation.parts import StoredParts, Whole, share, uncovered
    from epg.evaluation.progress import Running
    from epg.model.device import prepare_device
    from epg.store.scratch import scratch_folder

    stored = StoredParts(store, task.parts)
    parts = stored.read()
    spans = uncovered(task.count, task.span, [part.stretch for part in parts])
    left = sum(end - start for start, end in spans)
    if parts:
        reporter.message(
            f"{task.count - left:,} of {task.count:,} images were seen before: going on"
        )
    size = max(1, min(local_processes(), len(spans)))
    own = share(spans, 0, size)
    running = Running(
        task.count,
        task.count - left,
        next(iter(networks)),
        real,
        progress or (lambda done, total, told: reporter.progress(done, total, "images", **told)),
        share=sum(end - start for start, end in own) / max(left, 1),
        store=stored.put,
        rate=lambda: size * source.images_per_second,
        parts=parts,
    )
    if size == 1:
        task.look(source, networks).at(own, running)
        parts = running.parts
    else:
        task = replace(task, spans=spans)
        with scratch_folder("shares") as scratch, _others(task, size, scratch) as others:
            prepare_device(0, size)  # its share of the cores
            task.look(source, networks).at(own, running)
            others.wait()
        prepare_device()
        parts = stored.read()
    if uncovered(task.count, task.span, [part.stretch for part in parts]):
        raise UserError(
            f"{task.root}/{task.run_name}/{task.parts}: parts of the {task.what} are damaged or "
            "gone: run the same command again, which makes them anew"
        )
    whole = Whole.of(parts, RANKED)
    whole.facts["seconds"] /= size  # they worked side by side
    stored.clear()
    return whole


@contextlib.contextmanager
def _others(task: LookTask, size: int, scratch: Path) -> Iterator[_Others]:
    """Start the processes 1 ... `size` - 1; they end with the block, however it ends."""
    path = scratch / "task.json"
    path.write_text(task.to_json())
    started: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for rank in range(1, size):
            log = scratch / f"look-{rank}.log"
            arguments = [str(path), str(rank), str(size)]
            started.append((children.start("epg.stages.shares", arguments, log=log), log))
        yield _Others(task.what, started)
    finally:
        children.end([process for process, _ in started], _GRACE, tell=True)


@dataclass(frozen=True)
class _Others:
    what: str
    started: list[tuple[subprocess.Popen[bytes], Path]]

    def check(self) -> None:
        """Raise `UserError` with the last line of one that failed."""
        for process, log in self.started:
            if process.poll() not in (None, 0):
                said = log.read_text(errors="replace").strip().splitlines()
                reason = one_line(said[-1] if said else f"exit code {process.returncode}")[:300]
                raise UserError(
                    f"a process that shares the {self.what} failed ({reason}): what was seen is "
                    "kept; once the cause is mended, run the same command again"
                )

    def wait(self) -> None:
        """Wait until all have ended. Raises `UserError` as `check`."""
        while any(process.poll() is None for process, _ in self.started):
            self.check()
            time.sleep(_LOOK_SECONDS)
        self.check()


def main(arguments: list[str]) -> None:
    """Look at one share, and leave its parts in the store."""
    watch_parent()
    from epg.evaluation.parts import StoredParts, share
    from epg.evaluation.progress import Running
    from epg.model.device import prepare_device
    from epg.store import open_store
    from epg.store.scratch import scratch_folder

    path, rank, size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    task = read_task(path.read_bytes())
    stored = StoredParts(open_store(task.root).sub(task.run_name), task.parts)
    with scratch_folder("share") as scratch:
        device = prepare_device(rank, size)
        source, networks = task.source(device), task.open_networks(scratch, device)
        running = Running(
            task.count, 0, task.networks[0], None, lambda *told: None, store=stored.put
        )
        task.look(source, networks).at(share(task.spans, rank, size), running)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as said:
        raise SystemExit(f"epg: error: {said}") from said

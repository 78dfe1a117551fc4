"""`python -m epg.training.follow`: train as another process than the first."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

from epg.errors import UserError, one_line
from epg.guard import watch_parent
from epg.store.scratch import scratch_folder
from epg.training.job import Trained, TrainingJob
from epg.training.launch import run_rank
from epg.training.loop import Watch
from epg.training.place import given_place
from epg.training.processes import follow
from epg.training.world import World


def main() -> None:
    """Follow the first process to the end; exit code 2 with one line where that fails."""
    watch_parent()
    # Ctrl-C reaches all processes of a terminal; the first decides when all of them stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place = given_place()
    assert place is not None
    with scratch_folder("rank") as scratch:

        def work(job: TrainingJob, world: World) -> Trained:
            return run_rank(replace(job, scratch=scratch), world, Watch())

        try:
            follow(work, place)
        except UserError as error:
            sys.stderr.write(f"epg: rank {place.rank}: {one_line(error)}\n")
            raise SystemExit(2) from None


if __name__ == "__main__":
    main()

"""Several processes train one job: the first leads and keeps records, the others follow.

They meet at a small key-value store of the first. There it leaves the job, and whoever fails
leaves the reason. Followers of its own machine it starts itself, unless `torchrun` did.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch.distributed as dist

from epg import children
from epg.errors import UserError, one_line
from epg.training import ranks
from epg.training.job import Trained, TrainingJob
from epg.training.place import Place
from epg.training.world import World

_JOB = "job"
_REASON = "reason"
_GROUP = "group"
_WAIT = timedelta(days=2)  # of followers, while the first looks whether there is work
_GRACE = 10.0  # seconds that followers have to end by themselves
_LOOK = 0.2

#: Does one process's part.
Work = Callable[[TrainingJob, World], Trained]

_published = False


def lead(job: TrainingJob, place: Place, work: Work) -> Trained:
    """Train as the first process.

    Args:
        job: the training.
        place: this process's.
        work: what each process does.

    Raises:
        UserError: another process failed or is gone, with its reason; or they cannot meet.
    """
    global _published
    store, port = ranks.meeting_point(place, ranks.patience())
    store.set(_JOB, job.to_json().decode())
    _published = True
    with _followers(place, port) as followers:
        try:
            with ranks.joined(place, dist.PrefixStore(_GROUP, store), ranks.device_of(place)) as w:
                return work(job, w)
        except (UserError, SystemExit):
            followers.expected = True
            raise
        except Exception as error:
            reason = _told(store) or followers.reason()
            if reason is None and not _of_others(error):
                raise
            raise UserError(
                f"the processes of {job.stage} lost each other: {reason or one_line(error)}; the "
                "last checkpoint is kept: once the cause is mended, run the same command again"
            ) from error


def follow(work: Work, place: Place) -> None:
    """Train as another process than the first; return at once where there is nothing to train.

    Raises:
        UserError: the first process cannot be reached.
    """
    store, _ = ranks.meeting_point(place, ranks.patience())
    with _followers(place, place.port):
        store.set_timeout(_WAIT)
        content = store.get(_JOB)
        if not content:
            return
        store.set_timeout(ranks.patience())
        job = TrainingJob.from_json(content)
        try:
            with ranks.joined(place, dist.PrefixStore(_GROUP, store), ranks.device_of(place)) as w:
                work(job, w)
        except Exception as error:
            with contextlib.suppress(Exception):
                store.set(_REASON, f"rank {place.rank}: {one_line(error)}")
            raise


def dismiss(place: Place) -> None:
    """Tell the followers, if nothing was trained, that they can go."""
    if not _published:
        store, _ = ranks.meeting_point(place, ranks.patience())
        store.set(_JOB, "")


def _of_others(error: Exception) -> bool:
    """Tell whether a collective failed, by what gloo and NCCL say of a peer that is gone."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "timed out" in text or "by peer" in text


def _told(store: dist.Store) -> str | None:
    with contextlib.suppress(Exception):
        if store.check([_REASON]):
            return store.get(_REASON).decode()
    return None


class _Followers:
    """Processes that this one has started; when one dies early, nobody waits for it."""

    def __init__(self, processes: dict[int, subprocess.Popen[bytes]]) -> None:
        self._processes = processes
        self.expected = False  # that they end
        self._dead: dict[int, int] = {}
        if processes:
            threading.Thread(target=self._watch, name="epg-followers", daemon=True).start()

    def _watch(self) -> None:
        while not self.expected and not self._dead:
            codes = {rank: p.poll() for rank, p in self._processes.items()}
            self._dead = {rank: code for rank, code in codes.items() if code}
            time.sleep(_LOOK)
        if self._dead and not self.expected:
            ranks.abort()

    def reason(self) -> str | None:
        """Return who died and how, waiting a moment for the system to tell."""
        deadline = time.monotonic() + 3 * _LOOK
        while self._processes and not self._dead and time.monotonic() < deadline:
            time.sleep(_LOOK / 4)
        listed = [f"rank {rank} ended with exit code {code}" for rank, code in self._dead.items()]
        return ", ".join(listed) or None

    def end(self, grace: float) -> None:
        """Wait for them, then kill those that are left."""
        self.expected = True
        children.end(self._processes.values(), grace)


@contextlib.contextmanager
def _followers(place: Place, port: int) -> Iterator[_Followers]:
    """Start the other processes of this machine, if that is this one's part."""
    others = range(1, place.local_size) if place.starts else ()
    started: dict[int, subprocess.Popen[bytes]] = {}
    for local_rank in others:
        neighbour = place.neighbour(local_rank, port)
        started[neighbour.rank] = children.start(
            "epg.training.follow", environment=neighbour.environment()
        )
    followers = _Followers(started)
    try:
        yield followers
    except BaseException:
        followers.end(1.0)
        raise
    followers.end(_GRACE)

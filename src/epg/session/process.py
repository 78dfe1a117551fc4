"""Starts the host process of a run in a session of its own, and ends all of it.

kfp's runner leaves its children alive when it is told to stop. Everything that a run starts is in
one process group here: a SIGTERM goes to all of it (a training step writes a checkpoint at its
next step boundary), and whatever is still there after the grace is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The run was told to stop by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class HostProcess:
    """The process that runs the compiled pipeline, with all that it starts."""

    def __init__(self, spec: Path, log: Path, environment: dict[str, str]) -> None:
        """Start it; its output and that of all steps is appended to `log`."""
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", "epg.cluster.local", str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()

    def stop(self) -> bool:
        """End it and all it started; True when all ended by themselves within the grace."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        ended = False
        try:
            while not ended and time.monotonic() < deadline:
                # The host drains the running step's output, so it ends after that step did.
                ended = self._process.poll() is not None
                time.sleep(0.02)
        finally:  # also when a second signal cuts the grace short
            self.kill()
        return ended

    def kill(self) -> None:
        """End whatever is left, at once."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        # The group keeps its number as long as one member lives, even after its leader ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at SIGINT, SIGTERM and SIGHUP.

    What was ignored before (SIGHUP under nohup) stays so.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

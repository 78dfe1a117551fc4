"""Processes that this one starts to share its work: each ends with it, and is ended by it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from epg.guard import LAUNCHER_VARIABLE, launcher_name


def start(
    module: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a module of ours as a process that ends itself once this one is gone.

    Args:
        module: it watches its parent (`epg.guard`).
        arguments: of its command line.
        environment: what it has besides this process's variables.
        log: file for all that it says; None: it says it where this process does.
    """
    own = {**os.environ, **(environment or {}), LAUNCHER_VARIABLE: launcher_name()}
    # -P: modules of the folder that somebody happens to be in are none of ours.
    command = [sys.executable, "-P", "-m", module, *arguments]
    with contextlib.ExitStack() as opened:
        said = None if log is None else opened.enter_context(log.open("wb"))
        return subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=own
        )


def end(
    processes: Collection[subprocess.Popen[bytes]], grace: float, *, tell: bool = False
) -> None:
    """Wait until they have ended, together at most `grace` seconds; then kill those that are left.

    Args:
        processes: started by this one.
        grace: seconds.
        tell: send them a SIGTERM first; else they know by themselves.
    """
    for process in processes:
        if tell and process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.01))
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()

"""No orphans: a process of a run ends when the `epg run` that started it is gone.

`epg run` names itself in the environment as `EPG_LAUNCHER_PID=PID:START`. The start time is part
of the name because the system gives the numbers of ended processes to new ones. Where the
variable is not set (a step on a cluster, a stage called by hand) nothing is watched.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from epg.machine import process_started

LAUNCHER_VARIABLE = "EPG_LAUNCHER_PID"
_INTERVAL = 0.25  # seconds between two looks
_EXIT_CODE = 143  # as after SIGTERM: interrupted, not wrong


def launcher_name(pid: int | None = None) -> str:
    """Return the value of `EPG_LAUNCHER_PID` that names a process (default: this one)."""
    pid = os.getpid() if pid is None else pid
    started = process_started(pid)
    return f"{pid}:{'' if started is None else started}"


def is_alive(launcher: str) -> bool:
    """Tell whether the process that `launcher_name` named still runs (a zombie does not)."""
    pid, _, started = launcher.partition(":")
    found = process_started(int(pid))
    return found is not None and (not started or str(found) == started)


def watch_parent() -> None:
    """End this process hard, with all it holds, once the launcher is gone."""
    watch_launcher(lambda: os._exit(_EXIT_CODE))


def watch_launcher(when_gone: Callable[[], object]) -> None:
    """Call `when_gone` from a thread once the process in `EPG_LAUNCHER_PID` is gone."""
    launcher = os.environ.get(LAUNCHER_VARIABLE, "")
    if not launcher.partition(":")[0].isdigit():
        return

    def watch() -> None:
        while is_alive(launcher):
            time.sleep(_INTERVAL)
        when_gone()

    threading.Thread(target=watch, name="epg-launcher-watch", daemon=True).start()

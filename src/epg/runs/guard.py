"""No orphans: a process of a run ends when the `epg run` that started it is gone.

`epg run` names itself in the environment as `EPG_LAUNCHER_PID=PID:START`. The start time is part
of the name because the system gives the numbers of ended processes to new ones. Where the
variable is not set (a step on a cluster, a stage called by hand) nothing is watched.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

LAUNCHER_VARIABLE = "EPG_LAUNCHER_PID"
_INTERVAL = 0.25  # seconds between two looks
_EXIT_CODE = 143  # as after SIGTERM: interrupted, not wrong


def launcher_name(pid: int | None = None) -> str:
    """Return the value of `EPG_LAUNCHER_PID` that names a process (default: this one)."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}:{_started(pid) or ''}"


def is_alive(launcher: str) -> bool:
    """Tell whether the process that `launcher_name` named still runs (a zombie does not)."""
    pid, _, started = launcher.partition(":")
    found = _started(int(pid))
    return found is not None and (not started or found == started)


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


def _started(pid: int) -> str | None:
    """Start time of a running process as the system tells it; None when there is none."""
    if Path("/proc/self/stat").exists():
        try:
            # The program's name stands in brackets and may itself hold brackets and blanks.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    ps = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    found = subprocess.run(ps, capture_output=True, text=True, check=False)  # noqa: S603
    state, _, started = found.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()

"""Processes that share this one's work."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from epg import children
from epg.guard import LAUNCHER_VARIABLE, launcher_name

#: Runs a statement, as a module of the standard library that takes one.
RUN = ("timeit", ["-n", "1", "-r", "1"])


def started(statement: str, log: Path) -> subprocess.Popen[bytes]:
    module, options = RUN
    return children.start(
        module, [*options, statement], environment={"OF_THE_TEST": "here"}, log=log
    )


def test_what_it_is_told_and_what_it_says(tmp_path):
    log = tmp_path / "log"
    names = f"'OF_THE_TEST', '{LAUNCHER_VARIABLE}'"
    process = started(f"import os; print([os.environ[n] for n in ({names})])", log)
    children.end([process], 30.0)
    assert process.returncode == 0
    assert log.read_text().startswith(f"['here', '{launcher_name()}']")


def test_who_does_not_end_is_ended(tmp_path):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    logs = [tmp_path / "deaf", tmp_path / "hears"]
    processes = [
        started(f"{deaf}; time.sleep(60)", logs[0]),
        started("import time; print(1, flush=True); time.sleep(60)", logs[1]),
    ]
    while not all(log.exists() and log.read_text() for log in logs):
        time.sleep(0.02)
    children.end(processes, 0.3, tell=True)
    assert [p.returncode for p in processes] == [-signal.SIGKILL, -signal.SIGTERM]

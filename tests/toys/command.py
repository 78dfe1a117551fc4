"""Runs the real `epg` over the toy stages, or over the real ones, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "toys"
#: Seconds: tests wait for an event; this ends them where it never comes, also on a loaded machine.
PATIENCE = 900


def environment(*, toys: bool = True, **settings: str) -> dict[str, str]:
    paths = [str(TOYS)] if toys else [str(ROOT / "src")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "80", **settings}


def epg(
    folder: Path, *arguments: str, toys: bool = True, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run `epg ARGUMENTS` in a folder to its end."""
    return subprocess.run(
        [sys.executable, "-m", "epg", *arguments],
        cwd=folder,
        env=environment(toys=toys, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_compiled(folder: Path, pipeline: Path, **arguments: object) -> str:
    """Run a compiled pipeline here, as `epg run` does; return what its steps said."""
    from epg.cluster.local import LocalSpec

    spec = folder / "spec.json"
    LocalSpec(str(pipeline), arguments, str(folder)).write(spec)
    done = subprocess.run(
        [sys.executable, "-m", "epg.cluster.local", str(spec)],
        cwd=folder,
        env=environment(toys=False),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def start_epg(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """Start `epg ARGUMENTS` over the toys and come back at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "epg", *arguments],
        cwd=folder,
        env=environment(toys=True, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, seconds: float = PATIENCE) -> str:
    """Return the content of a file once it has one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and (content := path.read_text()):
            return content
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear in {seconds} s")


def processes_naming(text: str) -> list[int]:
    """Living processes (no zombies) with `text` on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text in line and state not in "ZX" and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def wait_until_none(text: str, seconds: float = PATIENCE) -> list[int]:
    """Wait for all processes with `text` on their command line to end; return what is left."""
    end = time.monotonic() + seconds
    while (left := processes_naming(text)) and time.monotonic() < end:
        time.sleep(0.05)
    return left

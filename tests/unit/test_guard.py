import os
import subprocess
import sys

import pytest

from epg import guard
from tests.toys.command import PATIENCE


def test_this_process_is_alive():
    assert guard.is_alive(guard.launcher_name())


def test_another_process_under_the_same_number_is_another():
    pid, _, started = guard.launcher_name().partition(":")
    assert not guard.is_alive(f"{pid}:{started}0")


def test_a_process_that_ended_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    name = guard.launcher_name(process.pid)
    process.wait()
    assert not guard.is_alive(name)


def test_a_zombie_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = guard.launcher_name(process.pid)
    assert guard.is_alive(name)
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet reaped
    assert not guard.is_alive(name)
    process.wait()


WATCHED = """
import os, time
from epg.guard import watch_parent
watch_parent()
print("watching", flush=True)
time.sleep(60)
"""


def test_a_watched_process_ends_with_its_launcher():
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = guard.launcher_name(launcher.pid)
    watched = subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        env={**os.environ, guard.LAUNCHER_VARIABLE: name},
        stdout=subprocess.PIPE,
    )
    assert watched.stdout is not None
    assert watched.stdout.readline() == b"watching\n"
    launcher.kill()  # and not reaped: a zombie of ours
    assert watched.wait(timeout=PATIENCE) == 143
    launcher.wait()


@pytest.mark.parametrize("value", [None, "", "nonsense", ":12"])
def test_nothing_is_watched_without_a_launcher(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv(guard.LAUNCHER_VARIABLE, value)
    called = []
    guard.watch_launcher(lambda: called.append(1))
    assert not called
    assert "epg-launcher-watch" not in {t.name for t in guard.threading.enumerate()}

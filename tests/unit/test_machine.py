"""How many cores a container gives, and which process is which."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from epg import machine
from epg.machine import (
    _cgroup_memory,
    _cgroup_quota,
    available_cores,
    memory_limit,
    process_space,
    process_started,
)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cpu_quota_of_both_kinds_of_cgroups(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cgroup_quota(tmp_path) == cores


def test_cores_are_bounded_by_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, cores in ((None, 8), (2, 2), (64, 8)):
        monkeypatch.setattr(machine, "_cgroup_quota", lambda quota=quota: quota)
        assert available_cores() == cores


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"memory.max": "1073741824\n"}, [2**30]),
        ({"memory.max": "max\n"}, []),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, [9223372036854771712]),
        ({}, []),
    ],
)
def test_memory_limit_of_both_kinds_of_cgroups(tmp_path, monkeypatch, files, limits):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cgroup_memory(tmp_path) == limits
    monkeypatch.setattr(machine, "_cgroup_memory", lambda: limits)
    assert memory_limit() == min([psutil.virtual_memory().total, *limits])


def test_process_start_tells_the_living_from_the_dead():
    assert process_started(os.getpid()) == process_started(os.getpid()) is not None
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_started(child.pid) is None


@pytest.mark.parametrize("pid", [-1, 2**31 - 1, 2**80])
def test_a_number_that_no_process_has(pid):
    assert process_started(pid) is None


def test_zombie_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet reaped
    assert process_started(child.pid) is None
    child.wait()


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere the system keeps the moment itself")
def test_setting_the_clock_makes_no_process_another(monkeypatch):
    before = process_started(os.getpid())
    real = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real + 3600.0)
    assert psutil.boot_time() == real + 3600.0
    assert process_started(os.getpid()) == before


def test_process_space_is_that_of_our_children():
    told = subprocess.run(
        [sys.executable, "-c", "from epg.machine import process_space; print(process_space())"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == process_space()

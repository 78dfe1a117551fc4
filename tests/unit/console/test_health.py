"""`epg health` tells a container that can run a step from one that cannot."""

from __future__ import annotations

import importlib.metadata

import pytest

from epg.runs.health import health


def test_here_all_is_well(capsys):
    assert health(load=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [
        *("epg", "recipes", "user", "home", "scratch", "kfp", "shared", "torch")
    ]
    assert all(line.startswith("ok ") for line in lines)
    assert "digits" in lines[1]


def test_a_home_that_cannot_be_written_to(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/proc")
    assert health(load=False) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed")]
    assert len(told) == 1
    assert "/proc" in told[0]
    assert "mount a writable volume there" in told[0]


@pytest.mark.parametrize(("package", "code"), [("kfp", 1), ("torch", 0)])
def test_a_package_that_is_not_there(monkeypatch, capsys, package, code):
    """Without kfp no step runs; without torch some do."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert health(load=False) == code
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.split()[1] == package]
    assert "not installed" in line

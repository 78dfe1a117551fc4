"""What the images are built from agrees with the rest of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.toys.command import ROOT, epg

IMAGES = ROOT / "images"
DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
LOCKS = sorted(IMAGES.rglob("*.lock"))


def pins(path: Path) -> dict[str, str]:
    """Package -> version and hashes."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", path.read_text())
    found = {}
    for entry in entries:
        if match := re.match(r"([\w.-]+)==(\S+)", entry):
            hashes = sorted(re.findall(r"sha256:([0-9a-f]{64})", entry))
            assert hashes, f"{path.name}: {match[1]} has no hash"
            found[match[1]] = f"{match[2]} {' '.join(hashes)}"
    return found


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[\s><=\[;#]", line)[0] for line in lines if line and line[0] != "#"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.relative_to(IMAGES).as_posix())
def test_what_was_tested_is_what_runs(lock: Path):
    ours = pins(ROOT / "requirements.lock")
    different = {name for name, pin in pins(lock).items() if ours.get(name) != pin}
    assert different == set(), "call `make lock`"


def test_the_locks_hold_what_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["dependencies"])
    assert wanted <= set(pins(IMAGES / "train" / "requirements.lock"))
    tools = names((IMAGES / "tools" / "requirements.in").read_text().splitlines())
    assert tools - {"kubernetes"} == wanted - {"timm", "torch", "torchvision"}
    locked = set(pins(IMAGES / "tools" / "requirements.lock"))
    assert tools <= locked
    assert not [name for name in locked if re.match("torch|nvidia|triton", name)]
    assert "kfp" in pins(IMAGES / "kfp.lock")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.parent.name)
def test_dockerfiles_keep_the_rules(path: Path):
    text = path.read_text()
    base = re.search(r"^ARG BASE=(\S+)$", text, re.M)
    assert base is not None
    assert re.fullmatch(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}", base[1])
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${BASE}"}
    assert re.search(r"^USER 1000:0$", text, re.M)
    assert re.search(r"^HEALTHCHECK .*epg", text, re.M)
    assert not re.search(r"^(ENTRYPOINT|ADD) ", text, re.M)
    # Locks come before the code: a change of the code leaves the layer of the packages alone.
    assert text.index("requirements.lock") < text.index("--from=wheel")
    installs = re.findall(r"pip install [^\\\n&]*", text)
    assert installs
    for line in installs:
        assert "--require-hashes" in line or "--no-index" in line, line
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for word in source.split():
            assert (ROOT / word).exists(), word


def test_what_the_dockerfiles_copy_is_not_ignored():
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for path in DOCKERFILES:
        for source in re.findall(r"^COPY (?!--from)(.*) \S+$", path.read_text(), re.M):
            for word in source.split():
                assert any(word == one or word.startswith(f"{one}/") for one in allowed), word


def test_stages_of_the_tools_image_import_no_torch(tmp_path: Path):
    """They ran in this process's environment, which has torch; the import is what is looked for."""
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'triton'):\n"
        "            raise ImportError(f'{name} is not in the tools image')\n"
        "sys.meta_path.insert(0, No())\n"
    )
    path = f"{tmp_path}:{ROOT / 'src'}"
    blocked = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "torch is not in the tools image" in blocked.stderr
    for stage in ("shard", "count-gflops"):
        ran = epg(tmp_path, stage, "--recipe", "smoke", "--run-name", "a", PYTHONPATH=path)
        assert ran.returncode == 0, ran.stderr
    ran = epg(tmp_path, "report", "--recipe", "smoke", "--run-name", "a", PYTHONPATH=path)
    assert ran.returncode == 0, ran.stderr

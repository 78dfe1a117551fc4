"""`make check-k8s`: each of its tools finds what it is there for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "scripts" / "check-manifests.lock"
STAMP = ROOT / ".venv-checks" / ".epg-lock"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not STAMP.is_file() or STAMP.read_bytes() != LOCK.read_bytes(),
        reason="`make check-k8s` has not made .venv-checks",
    ),
]
DOCKERFILE = """FROM docker.io/library/python:3.13
COPY epg /epg
USER 1000
HEALTHCHECK CMD ["/epg", "health"]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with which all is well."""
    (tmp_path / "k8s" / "optional" / "overlay").mkdir(parents=True)
    for name in ("05-network-policies.yaml", "30-pushgateway.yaml"):
        shutil.copy(ROOT / "k8s" / name, tmp_path / "k8s")
    (tmp_path / "k8s" / "optional" / "overlay" / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n"
        "kind: Kustomization\n"
        "resources: [../../30-pushgateway.yaml, ../../05-network-policies.yaml]\n"
    )
    (tmp_path / "images" / "tools").mkdir(parents=True)
    (tmp_path / "images" / "tools" / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def check(folder: Path) -> tuple[int, dict[str, str]]:
    """Return the exit code, and what each tool found."""
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "check-manifests.sh"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    words = re.split(r"^([\w-]+):$", done.stderr, flags=re.MULTILINE)
    return done.returncode, dict(zip(words[1::2], words[2::2], strict=True))


def test_nothing_is_found_where_all_is_well(tree):
    assert check(tree) == (0, {})


BREAKAGES = [
    # tool, its finding, a text, what stands there instead
    ("kubernetes-validate", "'two' is not of type", "replicas: 1", "replicas: two"),
    ("kubernetes-validate", "'stratego' was unexpected", "strategy:", "stratego:"),
    ("kubernetes-validate", "for kind Servise", "kind: Service\n", "kind: Servise\n"),
    ("checkov", "CKV_K8S_13", "memory: 256Mi", "memoryy: 256Mi"),
    ("checkov", "CKV_K8S_16", "{allowP", "{privileged: true, allowP"),
    ("checkov", "CKV_DOCKER_3", "USER 1000\n", ""),
    ("hadolint", "DL3007", ":3.13", ":latest"),
    ("kustomize", "31-pushgateway", "30-", "31-"),
]


def test_each_tool_finds_what_is_broken(tree):
    """All at once, each in a copy of its own: a run takes seconds."""
    manifest = (tree / "k8s" / "30-pushgateway.yaml").read_text()
    overlay = (tree / "k8s" / "optional" / "overlay" / "kustomization.yaml").read_text()
    folders = {
        "kustomize": (overlay, "k8s/optional/{}/kustomization.yaml"),
        "hadolint": (DOCKERFILE, "images/{}/Dockerfile"),
    }
    wanted = [b for b in BREAKAGES if b[0] != "kustomize" or shutil.which("kubectl")]
    for number, (tool, finding, old, new) in enumerate(wanted):
        text, name = folders.get(tool, (manifest, "k8s/{}.yaml"))
        if "DOCKER" in finding:
            text, name = folders["hadolint"]
        assert old in text
        path = tree / name.format(number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(old, new))
    code, found = check(tree)
    assert code == 1
    assert set(found) == {tool for tool, *_ in wanted}
    for tool, finding, *_ in wanted:
        assert finding in found[tool]

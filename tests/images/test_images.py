"""The images, built and run for real (`make test-images`; needs docker and minutes).

Every container here runs as a cluster would run it at its strictest: a uid that the image does not
know, no capabilities, a read-only root file system, and no network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest

from epg import __version__
from epg.cluster.local import compiled_pipeline, for_this_machine

ROOT = Path(__file__).parents[2]
TRAIN, TOOLS = f"epg-train:{__version__}", f"epg-tools:{__version__}"
STRANGER = 23456  # a uid that no image knows
UID = os.getuid() or STRANGER
STRICT = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--network", "none", "--user", f"{STRANGER}:0"),
)


def docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif("EPG_TEST_IMAGES" not in os.environ, reason="`make test-images` runs it"),
    pytest.mark.skipif(not docker_answers(), reason="no docker engine answers"),
]
both = pytest.mark.parametrize("image", [TRAIN, TOOLS])


@pytest.fixture(scope="session", autouse=True)
def images() -> None:
    """`make images`; EPG_TEST_IMAGES=built takes those that are there."""
    if os.environ["EPG_TEST_IMAGES"] == "built":
        return
    built = subprocess.run(
        ["sh", "scripts/images.sh"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert built.returncode == 0, built.stdout.decode()[-3000:]


def run(image: str, *command: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "run", "--rm", *STRICT, *more, image, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@both
def test_any_user_can_run_a_step(image: str):
    ran = run(image, "epg", "health", "--load")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"uid {STRANGER}, gid 0" in ran.stdout
    assert "failed" not in ran.stdout
    assert ("no GPU" in ran.stdout) == (image == TRAIN)


@both
def test_root_file_system_is_not_written_to(image: str):
    code = "import getpass; print(getpass.getuser()); open('/opt/epg/x', 'w')"
    ran = run(image, "python3", "-c", code)
    assert "epg" in ran.stdout
    assert "Read-only file system" in ran.stderr


@both
def test_labels_user_and_no_entry_point(image: str):
    found = json.loads(subprocess.check_output(["docker", "image", "inspect", image]))[0]["Config"]
    assert re.fullmatch(r"\d+:0", found["User"])
    assert not found["Entrypoint"]
    assert found["Labels"]["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(
        r"([0-9a-f]{12}(-dirty)?|unknown|.*-g[0-9a-f]{12}.*)",
        found["Labels"]["org.opencontainers.image.revision"],
    )
    assert set(found["Volumes"]) == {"/tmp", "/home/epg"}


def test_tools_are_without_torch():
    ran = run(TOOLS, "python3", "-c", "import torch")
    assert "No module named 'torch'" in ran.stderr


@both
def test_bytecode_is_there(image: str):
    """A user who cannot write beside the sources would compile at every start."""
    code = (
        "import epg, importlib.util as u, pathlib, pydantic\n"
        "compiled = [u.cache_from_source(module.__file__) for module in (epg, pydantic)]\n"
        "print(all(pathlib.Path(path).exists() for path in compiled))"
    )
    assert run(image, "python3", "-c", code).stdout.strip() == "True"


def pipeline_for_docker() -> str:
    """The compiled pipeline with its images filled in: the local runner does not do that."""
    text = for_this_machine(compiled_pipeline().read_text())
    for name, image in (("image", TRAIN), ("tools_image", TOOLS)):
        placeholder = f"{{{{$.inputs.parameters['pipelinechannel--{name}']}}}}"
        assert placeholder in text
        text = text.replace(placeholder, image)
    return text


def test_the_whole_pipeline_runs_in_the_images(tmp_path: Path):
    """The smoke recipe by Kubeflow's own local runner for docker."""
    import docker
    from kfp import components, local

    artifacts, store = tmp_path / "artifacts", tmp_path / "store"
    for folder in (artifacts, store):
        folder.mkdir()
        folder.chmod(0o777)  # written to by a stranger
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == tmp_path.owner():
            parent.chmod(parent.stat().st_mode | 0o011)
        if parent.name.startswith("pytest-of"):
            break
    runner: dict[str, Any] = {
        "user": f"{UID}:0",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "none",
        "environment": {"OMP_NUM_THREADS": "2"},
        "mounts": [docker.types.Mount("/store", str(store), type="bind")],
    }
    local.init(local.DockerRunner(**runner), pipeline_root=str(artifacts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = components.load_component_from_text(pipeline_for_docker())
        pipeline(recipe="smoke", run_name="images", store="/store")
    records = {path.stem for path in (store / "images" / "stages").glob("*.json")}
    assert {"shard", "pretrain", "evaluate-denoising", "register-consistency"} <= records
    for model in ("smoke-denoising", "smoke-consistency"):
        assert (store / "registry" / model / "v1" / "model.safetensors").stat().st_size > 0
    record = json.loads((store / "images" / "stages" / "pretrain.json").read_text())
    assert record["versions"]["git_commit"] != "unknown"

"""What every test gets: a clean environment, fixed seeds, golden files, markers that skip."""

from __future__ import annotations

import difflib
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores: one thread each, set before torch is first imported.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

# A script that runs the tests in the background (`make test &`) has them ignore Ctrl-C, `nohup` a
# hangup, and so would every command that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

GOLDEN = Path(__file__).parent / "golden"

# Prefixes of variables that would make a test depend on who runs it.
FOREIGN_VARIABLES = ("AWS_", "EPG_", "MINIO_", "XDG_")
# Variables that only tests marked `cluster` read.
CLUSTER_VARIABLES = {"EPG_KFP_ENDPOINT"}
CLUSTER_PREFIX = "EPG_TEST_"

settings.register_profile("epg", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("epg")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the golden files instead of comparing with them",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        no_gpu = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu") and not torch.cuda.is_available():
                item.add_marker(no_gpu)
    if "EPG_TEST_CLUSTER" not in os.environ:
        # Asked for by name: whoever has a KUBECONFIG and types `make test` means no cluster.
        no_cluster = pytest.mark.skip(reason="needs a cluster: `make test-cluster` runs it")
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(no_cluster)


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home and none of the user's settings, for the whole session."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in CLUSTER_VARIABLES or name.startswith(CLUSTER_PREFIX):
                continue
            if name.startswith(FOREIGN_VARIABLES):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")  # a test that reaches for a model hub fails at once
        yield home


@pytest.fixture(autouse=True)
def no_leaks(clean_environment: Path) -> Iterator[None]:
    """Whatever a test does to the environment or the folder it stands in ends with it."""
    environment, folder = dict(os.environ), Path.cwd()
    yield
    os.chdir(folder)
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed the global generators, for libraries that use them; ours take one as an argument."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten (`make golden`)."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def golden(update_golden: bool) -> Callable[[str, str], None]:
    """`golden("help/run.txt", text)`: the text equals tests/golden/help/run.txt."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if update_golden:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"no golden file {name}: call `make golden` and look at it"
        expected = path.read_text(encoding="utf-8")
        difference = "\n".join(
            difflib.unified_diff(
                expected.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm=""
            )
        )
        assert text == expected, f"if this is meant, call `make golden`:\n{difference}"

    return check

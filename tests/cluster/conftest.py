"""One cluster for all tests of this folder: the manifests are applied first and deleted last."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from epg.store import Store
from tests.cluster.site import ROOT, Site, store_of_runs, wait_for


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which they are written, and only where a cluster was meant."""
    missing = [name for name in ("KUBECONFIG", "EPG_KFP_ENDPOINT") if name not in os.environ]
    if not missing:
        return
    reason = f"needs a cluster with Kubeflow Pipelines: set {' and '.join(missing)}"
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def site() -> Site:
    return Site()


@pytest.fixture(scope="session")
def applied(site: Site) -> Iterator[list[str]]:
    """`kubectl apply -f k8s/`, ready, with runs in Kubeflow's namespace.

    What the tests made is deleted at the end, unless EPG_TEST_KEEP=1 leaves it for a look. What was
    there before stays: its data are somebody's.
    """
    ours = not site.exists("namespace", "epg")
    if ours and site.exists("secret", "epg-s3", "-n", site.kubeflow):
        pytest.exit(
            f"{site.kubeflow} has a Secret epg-s3 of another store, which these tests would "
            "replace: use a cluster for tests, or put it aside",
            returncode=2,
        )
    lines = site.apply()
    workloads = site.get("statefulsets,deployments", "-n", "epg")["items"]
    for workload in workloads:
        name = f"{workload['kind'].lower()}/{workload['metadata']['name']}"
        site.kubectl("-n", "epg", "rollout", "status", name, "--timeout=300s")
    connect_runs(site)
    yield lines
    if ours and not os.environ.get("EPG_TEST_KEEP"):
        site.kubectl("delete", "-f", "k8s/optional/kubeflow")
        site.kubectl("-n", site.kubeflow, "delete", "secret", "epg-s3")
        site.kubectl("delete", "-f", "-", "--wait=true", stdin=site.manifest_text())


def connect_runs(site: Site) -> None:
    """Address, rights and keys, by the very lines of docs/run-on-a-cluster.md."""
    wait_for(lambda: site.get("secret", "epg-s3", "-n", "epg"), "the secret epg-s3", seconds=60)
    page = (ROOT / "docs" / "run-on-a-cluster.md").read_text()
    starts = ("kubectl apply -f k8s/optional/kubeflow", "kubectl -n epg get secret epg-s3 -o yaml")
    lines = [line for line in page.splitlines() if line.startswith(starts)]
    assert len(lines) == len(starts)
    for line in lines:
        ran = subprocess.run(
            ["sh", "-c", line.replace("kubeflow/; /uid", f"{site.kubeflow}/; /uid")],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": site.kubeconfig},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="session")
def restricted(site: Site) -> Iterator[None]:
    """Kubeflow's namespace enforces *restricted* while a test runs in it."""
    label = "pod-security.kubernetes.io/enforce"
    before = site.get("namespace", site.kubeflow)["metadata"].get("labels", {}).get(label)
    site.kubectl("label", "namespace", site.kubeflow, "--overwrite", f"{label}=restricted")
    yield
    value = f"{label}={before}" if before else f"{label}-"
    site.kubectl("label", "namespace", site.kubeflow, "--overwrite", value)


@pytest.fixture(scope="session")
def credentials(site: Site, applied: list[str]) -> dict[str, str]:
    """The keys that the cluster made for its store."""
    return secret(site, "epg-s3")


@pytest.fixture(scope="session")
def administrator(site: Site, applied: list[str]) -> dict[str, str]:
    """The keys of the store's administrator, which no run gets."""
    return secret(site, "epg-minio")


def secret(site: Site, name: str) -> dict[str, str]:
    data = site.get("secret", name, "-n", "epg")["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


@pytest.fixture
def store(site: Site, credentials: dict[str, str]) -> Iterator[Store]:
    """The store of the runs; a way of its own for each test, since a pod that restarts cuts it."""
    with store_of_runs(site, credentials) as opened:
        yield opened

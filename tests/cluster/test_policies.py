"""NetworkPolicies in force: who reaches store, Pushgateway, Prometheus and steps, and who does not.

Only where the network enforces them (EPG_TEST_POLICIES=1): without that every door is open, and
nothing tells a wrong policy from none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.site import Site

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("EPG_TEST_POLICIES"),
        reason="set EPG_TEST_POLICIES=1 where the network enforces NetworkPolicies",
    ),
]
PREFIX = "epg-test-policies"
STEP, OTHER, OUTSIDE = f"{PREFIX}-step", f"{PREFIX}-other", f"{PREFIX}-outside"
METRICS_PORT, OUTSIDE_PORT = 9464, 8000
SERVED = {"STORE": ("minio.epg.svc", 9000), "PUSHGATEWAY": ("pushgateway.epg.svc", 9091)}
PROMETHEUS = ("prometheus.epg.svc", 9090)
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"


def listener(site: Site, name: str, namespace: str, port: int, labels: dict[str, str]) -> Any:
    """A pod that listens, allowed where *restricted* is enforced."""
    may = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": site.tools_image,
        "command": ["python3", "-m", "http.server", str(port), "--directory", "/tmp"],
        "securityContext": may,
    }
    user = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [container], "securityContext": user, "enableServiceLinks": False},
    }


@pytest.fixture(scope="module")
def addresses(site: Site, applied: list[str]) -> Iterator[dict[str, str]]:
    """Addresses of a pod labelled as a step, one that is not, and one of another namespace."""
    where = {STEP: site.kubeflow, OTHER: site.kubeflow, OUTSIDE: "default"}
    pods = [
        listener(site, STEP, site.kubeflow, METRICS_PORT, {"epg/stage": "probe"}),
        listener(site, OTHER, site.kubeflow, OUTSIDE_PORT, {}),
        listener(site, OUTSIDE, "default", OUTSIDE_PORT, {}),
    ]
    content = {"apiVersion": "v1", "kind": "List", "items": pods}
    site.kubectl("apply", "-f", "-", stdin=json.dumps(content))
    try:
        for name, namespace in where.items():
            words = ("--for=condition=Ready", f"pod/{name}", "--timeout=120s")
            site.kubectl("-n", namespace, "wait", *words)
        yield {
            name: site.get("pod", name, "-n", namespace)["status"]["podIP"]
            for name, namespace in where.items()
        }
    finally:
        site.kubectl("delete", "-f", "-", "--now", stdin=json.dumps(content))


def reaches(site: Site, pod: str, host: str, port: int) -> bool:
    """Whether a pod of the runs' namespace gets a connection."""
    words = ("python3", "-c", CONNECT, host, str(port))
    said = site.kubectl("-n", site.kubeflow, "exec", pod, "--", *words, check=False)
    assert not said or "Error" in said, said
    return not said


@pytest.mark.parametrize("what", sorted(SERVED))
def test_a_step_reaches_store_and_pushgateway_and_others_do_not(
    site: Site, addresses: dict[str, str], what: str
):
    assert reaches(site, STEP, *SERVED[what])
    assert not reaches(site, OTHER, *SERVED[what])


def test_a_step_reaches_nothing_of_other_namespaces(site: Site, addresses: dict[str, str]):
    assert reaches(site, OTHER, addresses[OUTSIDE], OUTSIDE_PORT)  # it answers, and is not shut
    assert not reaches(site, STEP, addresses[OUTSIDE], OUTSIDE_PORT)


def test_prometheus_is_reached_from_its_own_namespace_alone(site: Site, addresses: dict[str, str]):
    for pod in (STEP, OTHER):
        assert not reaches(site, pod, *PROMETHEUS)


def test_the_metrics_of_a_step_are_for_prometheus_alone(site: Site, addresses: dict[str, str]):
    assert reaches(site, STEP, "127.0.0.1", METRICS_PORT)
    assert not reaches(site, OTHER, addresses[STEP], METRICS_PORT)

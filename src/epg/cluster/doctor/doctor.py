"""`epg doctor`: what a run needs, tried one by one, each with how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from epg.cluster.doctor.check import FAILED, Check
from epg.cluster.doctor.cluster import check_cluster
from epg.cluster.doctor.prometheus import check_prometheus
from epg.cluster.doctor.server import check_server
from epg.cluster.doctor.store import check_store
from epg.text import printable


@dataclass(frozen=True)
class DoctorRequest:
    """What `epg doctor` was asked to look at."""

    endpoint: str | None = None
    token_file: str | None = None
    store: str | None = None
    namespace: str = "kubeflow"
    kubeconfig: str | None = None
    secret: str | None = None
    prometheus: str | None = None


def doctor(request: DoctorRequest) -> int:
    """Print a line per check as it is made; return 1 when one failed."""
    failed = 0
    for check in examine(request):
        failed += check.outcome == FAILED
        sys.stdout.write(f"{check.outcome:<7}  {check.name:<24}  {printable(check.text)}\n")
        sys.stdout.flush()
    return 1 if failed else 0


def examine(request: DoctorRequest) -> Iterator[Check]:
    """Make all checks."""
    yield from check_server(request.endpoint, request.token_file, request.namespace)
    yield from check_store(request.store)
    yield from check_cluster(request.namespace, request.kubeconfig, request.secret)
    yield check_prometheus(request.prometheus)

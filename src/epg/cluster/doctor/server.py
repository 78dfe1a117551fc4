"""Kubeflow Pipelines: does the server answer, and does it accept the token?"""

from __future__ import annotations

from collections.abc import Iterator

from epg.cluster.doctor.check import FAILED, OK, SKIPPED, Check, tried
from epg.cluster.runs.endpoint import has_endpoint
from epg.cluster.runs.kfp_api import KfpApi
from epg.errors import UserError


def check_server(endpoint: str | None, token_file: str | None, namespace: str) -> Iterator[Check]:
    """Reach the server, and ask it something that needs a valid token."""
    if not has_endpoint(endpoint):
        yield Check("endpoint", SKIPPED, "give --endpoint URL or set EPG_KFP_ENDPOINT")
        return
    try:
        api = KfpApi.open(endpoint, token_file)
        server = api.server()
    except UserError as error:
        yield Check("endpoint", FAILED, str(error))
        return
    yield Check("endpoint", OK, f"Kubeflow Pipelines {server.version} at {api.endpoint}")

    def ask() -> str:
        place = f"&namespace={namespace}" if server.multi_user else ""
        api.call("GET", f"experiments?page_size=1{place}")
        return "may list experiments"

    yield tried("endpoint: token", ask)

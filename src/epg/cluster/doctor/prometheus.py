"""Prometheus: do the metrics of our runs arrive there?"""

from __future__ import annotations

import urllib3

from epg.cluster.doctor.check import FAILED, OK, SKIPPED, Check
from epg.errors import one_line


def check_prometheus(url: str | None) -> Check:
    """Ask Prometheus whether it knows metrics of ours."""
    name = "metrics"
    if not url:
        return Check(name, SKIPPED, "give --prometheus URL")
    query = f"{url.rstrip('/')}/api/v1/query"
    wanted = {"query": 'count({__name__=~"epg_.+"})'}
    try:
        pool = urllib3.PoolManager(timeout=10.0, retries=False)
        answer = pool.request("GET", query, fields=wanted)
        content = answer.json() if answer.status == 200 else None
        series = content["data"]["result"] if content else None
    except urllib3.exceptions.HTTPError as error:
        said = one_line(error)
        return Check(name, FAILED, f"cannot reach Prometheus at {url}: {said}")
    except (ValueError, KeyError, TypeError):
        series = None
    if series is None:
        return Check(name, FAILED, f"{url} does not answer as Prometheus (HTTP {answer.status})")
    if not series:
        return Check(
            name,
            OK,
            "Prometheus answers; it has no epg_ metrics yet (they come while a run trains)",
        )
    return Check(name, OK, f"Prometheus has {series[0]['value'][1]} series of ours")

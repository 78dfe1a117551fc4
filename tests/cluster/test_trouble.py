"""What goes wrong around a run on a real cluster, and what its user is told.

Runs of one name, a quota, a cache whose objects are gone, a store that is away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from epg.store import Store
from tests.cluster.site import LONG, OFTEN, STORE, Site, store_of_runs, wait_for

pytestmark = pytest.mark.cluster
OUTAGE = 60  # seconds
QUOTA = """
apiVersion: v1
kind: ResourceQuota
metadata: {{name: epg-test, namespace: {namespace}}}
spec: {{hard: {{pods: "0"}}}}
"""


@pytest.fixture
def no_pods(site: Site, applied: list[str]) -> Iterator[None]:
    """A quota that lets no further pod into the namespace of the runs."""
    site.kubectl("apply", "-f", "-", stdin=QUOTA.format(namespace=site.kubeflow))
    yield
    words = ("quota", "epg-test", "-n", site.kubeflow, "--ignore-not-found")
    site.kubectl("delete", *words)


def test_a_quota_is_told_and_the_run_goes_on_without_it(site: Site, no_pods: None):
    run = site.submit("crowded", store=STORE, consistency="false", overrides=LONG)
    told = wait_for(
        lambda: text if "quota" in (text := site.told(run)) else None, "the quota's name", 180
    )
    assert "stands still" in told
    assert "Kubernetes does not let its pod in: exceeded quota: epg-test" in told
    site.kubectl("delete", "quota", "epg-test", "-n", site.kubeflow)
    wait_for(lambda: site.running(run, "pretrain"), "the run to go on by itself", 400)
    assert "quota" not in site.told(run)
    site.terminate(run)
    site.end_of(run, 300)


def test_runs_of_one_name_do_not_mix(site: Site, store: Store, applied: list[str]):
    """One with another recipe is refused at its first step, one with the same at the stage."""
    # Long enough that the second one of the same recipe comes while the first one trains.
    steps = {"pretrain.steps": 20 * site.steps, **OFTEN}
    one, another = (json.dumps({**steps, "model.depth": depth}) for depth in (2, 3))
    common = {"store": STORE, "consistency": "false"}
    first = site.submit("shared", **common, overrides=one)
    site.training(first, store, "shared")
    recipe = store.get_bytes("shared/recipe.yaml")
    counted = "shared/stages/count-gflops.json"
    wait_for(lambda: list(store.list(counted)), "the figures beside it", 300)
    figures = store.get_bytes(counted)

    other = site.submit("shared", **common, overrides=another)
    same = site.submit("shared", **common, overrides=one)
    assert site.end_of(other, 400) == "FAILED"
    told = site.told(other)
    assert "why: shard: failed: s3://" in told
    assert f"is in use by pipeline run {first} since " in told
    assert "with another recipe" in told
    assert "model.depth: 2 -> 3" in told
    assert site.end_of(same, 600) == "FAILED"
    told = site.told(same)
    assert "why: pretrain: failed: s3://" in told
    assert f"is in use by stage pretrain of run shared, pipeline run {first} (host " in told

    assert site.end_of(first) == "SUCCEEDED"
    assert store.get_bytes("shared/recipe.yaml") == recipe
    assert store.get_bytes(counted) == figures
    page = store.get_bytes("shared/report/report.html").decode()
    assert "another recipe" not in page
    assert "is in use by" not in page
    assert not list(store.list("shared/claim.json"))  # the next one may choose its recipe

    # Retry, as the button of the UI: no report follows, so nothing may be claimed.
    site.api.call("POST", f"runs/{other}:retry", {})
    words = "has results of 'pretrain' made with other settings (model.depth: 2 -> 3)"
    wait_for(lambda: words in site.told(other), "the retried run to meet the other's results", 300)
    assert site.end_of(other, 300) == "FAILED"
    assert not list(store.list("shared/claim.json"))


def test_a_cache_whose_objects_are_gone_is_told(site: Site, store: Store, applied: list[str]):
    words = {"store": STORE, "consistency": "false", "overrides": LONG}
    run = site.submit("emptied", **words)
    site.training(run, store, "emptied")
    site.terminate(run)
    site.end_of(run, 300)
    for info in list(store.list("emptied/")):
        store.delete(info.key)

    run = site.submit("emptied", **words)
    assert site.end_of(run, 400) == "FAILED"
    told = site.told(run)
    assert "cache" in told
    assert "--no-cache" in told

    again = site.epg("submit", "--no-cache", *site.parameters("emptied", **words))
    assert again.returncode == 0, again.stdout
    run = site.api.run(again.stdout.split("\nrun ")[1].split()[0])["run_id"]
    site.training(run, store, "emptied")
    site.terminate(run)
    site.end_of(run, 300)


def test_a_store_that_is_away_for_a_minute(
    site: Site, credentials: dict[str, str], applied: list[str]
):
    """A training step waits for it, says so, and goes on; nothing is started again."""
    steps = json.dumps({"pretrain.steps": 3 * site.steps, **OFTEN})
    run = site.submit("patient", store=STORE, consistency="false", overrides=steps)
    with store_of_runs(site, credentials) as store:
        pod = site.training(run, store, "patient")
    scale = ("-n", "epg", "scale", "statefulset/minio")
    site.kubectl(*scale, "--replicas=0")
    try:
        wait_for(lambda: not site.exists("pod", "minio-0", "-n", "epg"), "MinIO to go", 120)
        gone = time.monotonic()
        told = wait_for(
            lambda: text if "waiting for S3" in (text := site.told(run)) else None,
            "the status to say so",
            OUTAGE,
        )
        assert "pretrain: waiting for S3 at " in told
        time.sleep(max(0.0, gone + OUTAGE - time.monotonic()))
    finally:
        site.kubectl(*scale, "--replicas=1")
    site.kubectl("-n", "epg", "rollout", "status", "statefulset/minio", "--timeout=120s")
    assert site.end_of(run) == "SUCCEEDED"
    tried = {found["metadata"]["name"] for found in site.pods(run, "pretrain")}
    assert len([name for name in tried if "driver" not in name]) == 1, tried
    assert "waiting for S3" in site.log(pod)
    with store_of_runs(site, credentials) as store:
        assert list(store.list("patient/stages/register-denoising.json"))

"""The whole way on a real cluster (`make test-cluster`); in the order in which it stands here.

A run of the smoke recipe costs some minutes, nearly all of it pods that start: few runs, each of
which proves several things. Long ones are stretched by `pretrain.steps`.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from epg.data.manifest import Manifest
from epg.runs.run import Run
from epg.stages.shard import shard
from epg.store import Store
from tests.cluster.site import EXPERIMENT, LONG, OFTEN, ROOT, STORE, Site, wait_for

pytestmark = pytest.mark.cluster
IMAGES = 4000


def query(address: str, expression: str) -> list[dict[str, Any]]:
    words = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{words}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def test_apply_is_complete_and_a_second_one_changes_nothing(site: Site, applied: list[str]):
    assert applied
    again = site.apply()
    assert len(again) == len(applied)
    assert [line for line in again if not line.endswith(" unchanged")] == []
    pods = site.get("pods", "-n", "epg")["items"]
    lasting = [pod for pod in pods if "job-name" not in pod["metadata"]["labels"]]
    assert {pod["status"]["phase"] for pod in lasting} == {"Running"}


def test_doctor_finds_everything_in_place(site: Site, store: Store, applied: list[str]):
    with site.forward("service/prometheus", 9090) as prometheus:
        ran = site.epg(
            *("doctor", "--store", store.uri, "--namespace", site.kubeflow),
            *("--kubeconfig", site.kubeconfig, "--prometheus", f"http://{prometheus}"),
        )
    assert ran.returncode == 0, ran.stdout
    good = re.findall(r"^ok +(\w[\w: ]*?)  ", ran.stdout, re.M)
    assert {"endpoint", "store: put", "store: conditional put", "rights", "secret"} <= set(good)
    assert "metrics" in good


def test_everything_in_a_restricted_namespace(site: Site, store: Store, restricted: None):
    """The main way: submitted, followed to its end, looked at in every place."""
    ran = site.epg(
        *("submit", "pipelines/epg_full.yaml", "--experiment", EXPERIMENT, "--wait"),
        *("--kubeconfig", site.kubeconfig),
        *site.parameters("main", store=STORE, overrides=f'{{"pretrain.steps": {site.steps}}}'),
    )
    assert ran.returncode == 0, ran.stdout
    assert "run succeeded" in ran.stdout
    for stage in ("shard", "pretrain", "register-denoising", "register-consistency", "report"):
        assert f"{stage}: succeeded" in ran.stdout

    keys = {info.key for info in store.list()}
    for model in ("smoke-denoising", "smoke-consistency"):
        assert f"registry/{model}/v1/model.safetensors" in keys
        assert f"registry/{model}/v1/README.md" in keys
    page = store.get_bytes("main/report/report.html").decode()
    assert "Both models passed their gate." in page  # as the engine tells its end

    with site.forward("service/prometheus", 9090) as prometheus:
        # Scraped while it trained, found by its annotations although its pod declares no port.
        trained = query(
            prometheus, 'max_over_time(epg_train_step{step="pretrain",namespace!=""}[30m])'
        )
        assert trained, "pretrain was not scraped"
        assert float(trained[0]["value"][1]) > 0
        # Pushed at the end, by stages that no scrape can catch.
        wait_for(
            lambda: query(prometheus, 'epg_eval_svc_agreement{step="evaluate-denoising"}'),
            "outcomes at the Pushgateway",
            60,
        )
        assert query(prometheus, 'up{job="minio"} == 1')
        firing = query(prometheus, 'ALERTS{alertstate="firing"}')
        assert [a["metric"]["alertname"] for a in firing] == []


def test_submitted_again_nothing_is_done_twice(site: Site, store: Store, restricted: None):
    """The README's own line for Kubeflow's command line; every stage finds its result."""
    before = records(store)
    environment = {**os.environ, "KFP_ENDPOINT": site.endpoint}
    overrides = f'{{"pretrain.steps": {site.steps}}}'
    words = [
        *(
            str(Path(sys.executable).parent / "kfp"),
            "--endpoint",
            site.endpoint,
            "--output",
            "json",
            "run",
            "submit",
        ),
        *("-e", EXPERIMENT, "-r", "main-again", "-f", "pipelines/epg_full.yaml"),
        *site.parameters("main", store=STORE, overrides=overrides),
    ]
    ran = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = re.search(r'"run_id": "([0-9a-f-]{36})"', ran.stdout)
    assert found, ran.stdout
    assert site.end_of(found[1]) == "SUCCEEDED"
    assert records(store) == before


def records(store: Store) -> dict[str, bytes]:
    """The stages' records; the report is written at every run."""
    keys = [info.key for info in store.list("main/stages/") if "report" not in info.key]
    return {key: store.get_bytes(key) for key in keys}


def test_a_run_begins_again_at_a_stage(site: Site, store: Store, restricted: None):
    """`--from`: results of that stage and of what used them are made anew, the others stay."""
    before = records(store)
    overrides = f'{{"pretrain.steps": {site.steps}}}'
    ran = site.epg(
        *("submit", "--experiment", EXPERIMENT, "--wait", "--from", "evaluate-denoising"),
        *("--kubeconfig", site.kubeconfig),
        *site.parameters("main", store=STORE, overrides=overrides),
    )
    assert ran.returncode == 0, ran.stdout
    after = records(store)
    changed = {key for key in after if after[key] != before.get(key)}
    stages = ("evaluate", "gate", "register")
    assert changed == {f"main/stages/{stage}-denoising.json" for stage in stages}
    assert after.keys() == before.keys()


def many_images(path: Path) -> None:
    """Write a tar of webdataset's layout, whose shards take longer than a pod to start."""
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), np.uint8)
    with tarfile.open(path, "w") as tar:
        for number, pixels in enumerate(noise):
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "png")
            for suffix, data in (("png", png.getvalue()), ("cls", str(number % 10).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_shards_by_several_pods_are_those_of_one(site: Site, store: Store, tmp_path: Path):
    """Parts in a loop beside `shard`, one pod of them deleted in mid-step."""
    many_images(tmp_path / "images.tar")
    store.put_file("images/images.tar", tmp_path / "images.tar")
    settings = {"data.samples_per_shard": 1}
    run_id = site.submit(
        "parts",
        store=STORE,
        overrides=json.dumps({"data.source": f"webdataset:{STORE}/images", **settings}),
        consistency="false",
        shard_parts="3",
    )

    def notes() -> set[str]:
        keys = [info.key for info in store.list("parts/shards/")]
        return {key.rpartition("/")[2] for key in keys if key.endswith(".part.json")}

    pod = wait_for(lambda: site.running(run_id, "shard-part"), "a part to run", 300, pause=1)
    # `shard` helps out from the end: the first shard is a part's own.
    first = "train-000000.tar.part.json"
    found = wait_for(lambda: n if first in (n := notes()) else None, "a shard of a part", 300)
    assert len(found) < IMAGES
    assert site.running(run_id, "shard")
    assert re.search(r"shard-part [12] ", site.told(run_id)), "parts are not told apart"
    between_two_looks_of_argo(site, pod)
    site.kubectl("-n", site.kubeflow, "delete", "pod", pod, "--wait=false")
    assert site.end_of(run_id) == "SUCCEEDED"
    record = json.loads(store.get_bytes("parts/stages/shard.json"))
    key = record["outputs"]["manifest"]["key"]
    by_three = Manifest.from_json(store.get_bytes(f"parts/{key}"))
    here = {"data.source": f"webdataset:{tmp_path}", **settings}
    alone = Run.open("smoke", here, str(tmp_path), "parts")
    key = shard(alone).outputs["manifest"]["key"]
    by_one = Manifest.from_json(alone.store.get_bytes(key))
    for split, shards in by_one.splits.items():
        assert [s.sha256 for s in by_three.splits[split]] == [s.sha256 for s in shards], split
    assert by_one.num_samples("train") + by_one.num_samples("held-out") == IMAGES
    # A loop that the engine takes for unfinished would be told as a run that was ended.
    page = store.get_bytes("parts/report/report.html").decode()
    assert "before it was done" not in page


def test_a_generator_is_judged_again(site: Site, store: Store, restricted: None):
    """The second pipeline: training steps hand on what is there, the rest is done anew."""
    settings = f'{{"pretrain.steps": {site.steps}, "evaluate.num_samples": 100}}'
    trained = store.get_bytes("main/stages/finetune-denoising.json")
    ran = site.epg(
        *("submit", "pipelines/epg_evaluate.yaml", "--experiment", EXPERIMENT, "--wait"),
        *("--kubeconfig", site.kubeconfig),
        *site.parameters("main", store=STORE, overrides=settings),
    )
    assert ran.returncode == 0, ran.stdout
    record = json.loads(store.get_bytes("main/stages/evaluate-denoising.json"))
    assert record["metrics"]["num_samples"] == 100
    assert store.get_bytes("main/stages/finetune-denoising.json") == trained


def test_settings_of_a_trained_generator_are_tried(site: Site, store: Store, restricted: None):
    """The sweep's pipeline: training steps hand on what is there, every setting is measured."""
    trained = store.get_bytes("main/stages/finetune-denoising.json")
    ran = site.epg(
        *("submit", "pipelines/epg_sweep.yaml", "--experiment", EXPERIMENT, "--wait"),
        *("--kubeconfig", site.kubeconfig),
        *site.parameters(
            "main",
            store=STORE,
            overrides=f'{{"pretrain.steps": {site.steps}}}',
            grid='{"guidance_scale": [1, 3], "steps": [4]}',
        ),
    )
    assert ran.returncode == 0, ran.stdout
    record = json.loads(store.get_bytes("main/stages/sweep-denoising.json"))
    found = record["details"]["overrides"]
    assert record["metrics"]["points"] == 2
    assert found["denoising.guidance_scale"] in (1.0, 3.0)
    assert found["denoising.sampling_steps"] == 4
    assert store.get_bytes("main/stages/finetune-denoising.json") == trained


def between_two_looks_of_argo(site: Site, pod: str) -> None:
    """Wait for the middle of the ten seconds after which Argo looks at a workflow again.

    A pod that is deleted is Failed for the split second before it is gone. When Argo looks just
    then, it sees a step that failed, not one whose pod was taken away, and does not start it again
    (retryPolicy OnError); the run fails, and goes on when it is submitted again.
    """
    made = datetime.fromisoformat(
        site.get("pod", pod, "-n", site.kubeflow)["metadata"]["creationTimestamp"]
    )
    phase = (datetime.now(UTC) - made).total_seconds() % 10
    time.sleep((13 - phase) % 10)


def test_a_deleted_pod_goes_on_from_its_checkpoint(site: Site, store: Store):
    """A node that is drained: Kubernetes takes the pod away in mid-step."""
    run = site.submit(
        "drained",
        store=STORE,
        consistency="false",
        overrides=json.dumps({"pretrain.steps": site.steps * 3 // 2, **OFTEN}),
    )
    pod = site.training(run, store, "drained")
    between_two_looks_of_argo(site, pod)
    site.kubectl("-n", site.kubeflow, "delete", "pod", pod, "--wait=false")
    second = wait_for(
        lambda: name if (name := site.running(run, "pretrain")) != pod else None, "another pod", 240
    )
    text = wait_for(
        lambda: log if "going on from" in (log := site.log(second)) else None, "it to go on", 180
    )
    assert re.search(r"going on from the checkpoint at step [1-9]", text)
    assert site.end_of(run) == "SUCCEEDED"


def test_terminated_nothing_is_left_and_the_same_name_goes_on(site: Site, store: Store):
    run = site.submit("stopped", store=STORE, consistency="false", overrides=LONG)
    site.training(run, store, "stopped")
    ended = site.epg("terminate", run)
    assert ended.returncode == 0, ended.stdout
    assert site.end_of(run, 300) in ("FAILED", "CANCELED")
    told = site.epg("status", run, "--kubeconfig", site.kubeconfig)
    assert told.returncode == 1, told.stdout

    def alive() -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in site.pods(run)
            if pod["status"].get("phase") in ("Pending", "Running")
        ]

    wait_for(lambda: not alive(), "the pods to end", 180)
    checkpoints = {info.key for info in store.list("stopped/pretrain/checkpoints/")}
    assert checkpoints

    again = site.submit("stopped", store=STORE, consistency="false", overrides=LONG)
    pod = wait_for(lambda: site.running(again, "pretrain"), "pretrain to run", 300)
    text = wait_for(
        lambda: log if "going on from" in (log := site.log(pod)) else None, "it to go on", 180
    )
    assert re.search(r"going on from the checkpoint at step [1-9]", text)
    site.terminate(again)
    site.end_of(again, 300)


def test_an_image_that_is_not_there_is_told(site: Site, applied: list[str]):
    run = site.submit("absent", store=STORE, tools_image="epg-absent.example/epg-tools:0.0.0")
    told = wait_for(
        lambda: ran if (ran := site.epg("status", run)).returncode else None, "a reason", 180
    )
    assert "stands still" in told.stdout
    assert "epg-absent.example/epg-tools:0.0.0 cannot be pulled" in told.stdout
    site.terminate(run)
    site.end_of(run, 300)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"store": STORE, "store_credentials": "epg-absent"}, ["no credentials", "Secret"]),
        ({"store": "s3://epg-absent/runs"}, ["bucket", "epg-absent"]),
    ],
    ids=["secret", "bucket"],
)
def test_what_the_store_lacks_is_told(
    site: Site, applied: list[str], setting: dict[str, str], words: list[str]
):
    run = site.submit("lacking", **setting)
    assert site.end_of(run, 400) == "FAILED"
    told = site.epg("status", run, "--kubeconfig", site.kubeconfig)
    assert told.returncode == 1
    for word in words:
        assert word in told.stdout


def test_a_node_without_gpu_is_told(site: Site, applied: list[str]):
    nodes = site.get("nodes")["items"]
    if any(node["status"]["allocatable"].get("nvidia.com/gpu", "0") != "0" for node in nodes):
        pytest.skip("this cluster has GPUs")
    run = site.submit("no-gpu", store=STORE, accelerator_count="1", consistency="false")
    told = wait_for(
        lambda: ran if (ran := site.epg("status", run)).returncode else None, "a reason", 300
    )
    assert "pretrain: no node can take it" in told.stdout
    assert "nvidia.com/gpu" in told.stdout
    site.terminate(run)
    assert site.end_of(run, 300) in ("FAILED", "CANCELED")

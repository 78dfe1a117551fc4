"""Our exporter, scrape configuration, rules and dashboards with a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from epg.measures import MEASURES
from epg.telemetry.exporter import start_exporter
from epg.telemetry.metrics import TrainingMetrics
from epg.telemetry.outcomes import OutcomeKind, StageOutcome, push_outcome
from tests.toys.command import PATIENCE

K8S = Path(__file__).parents[2] / "k8s"
NEEDED = ("prometheus", "prometheus-pushgateway", "promtool")
MISSING = [name for name in NEEDED if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

RECORDS: dict[str, dict[str, Any]] = {
    "shard": {"images_train": 90, "images_held_out": 10, "images_skipped": 0, "bytes": 4096},
    "count_gflops": {"parameters_generator": 7, "gflops": 0.027},
    "pretrain": {"loss": 1.75, "loss_nce": 1.25},
    "evaluate_denoising": {measure.name: 0.5 for measure in MEASURES},
    "gate_denoising": {"verdict": "pass"},
}
KINDS: dict[str, OutcomeKind] = {
    "shard": "shards",
    "count_gflops": "costs",
    "pretrain": "training",
    "evaluate_denoising": "evaluation",
    "gate_denoising": "verdict",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(url, data=data, timeout=60) as answer:  # noqa: S310 - our own
        return answer.read().decode()


def wait_for(what, seconds: float = PATIENCE):
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            if found := what():
                return found
        assert time.monotonic() < end, f"nothing after {seconds:.0f} s"
        time.sleep(0.3)


@contextlib.contextmanager
def process(*words: str) -> Iterator[None]:
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        running.wait(timeout=PATIENCE)


def configuration(exporter_port: int, gateway_port: int) -> dict:
    """Ours, with made-up pods in the place of discovery: two containers of one pod, and others."""
    manifest = next(yaml.safe_load_all((K8S / "40-prometheus-config.yaml").read_text()))
    config = yaml.safe_load(manifest["data"]["prometheus.yml"])
    meta = {
        "__meta_kubernetes_pod_ip": "127.0.0.1",
        "__meta_kubernetes_namespace": "kubeflow",
        "__meta_kubernetes_pod_name": "pretrain-1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_container_init": "false",
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
        "__meta_kubernetes_pod_annotation_prometheus_io_port": str(exporter_port),
        "__meta_kubernetes_pod_annotation_prometheus_io_path": "/metrics",
        "__meta_kubernetes_pod_label_pipeline_runid": "run-1",
        "__meta_kubernetes_pod_label_epg_stage": "pretrain",
    }
    pods = [
        {**meta, "__meta_kubernetes_pod_container_name": "main"},
        {**meta, "__meta_kubernetes_pod_container_name": "wait"},
        {**meta, "__meta_kubernetes_pod_container_init": "true"},
        {**meta, "__meta_kubernetes_pod_name": "done", "__meta_kubernetes_pod_phase": "Succeeded"},
        {**meta, "__meta_kubernetes_pod_annotation_prometheus_io_scrape": ""},
    ]
    config.pop("scrape_config_files")  # newer than Debian's; a test of the manifests reads them
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            labels = pods if job["job_name"] == "epg" else []
            job["static_configs"] = [{"targets": ["10.0.0.1"], "labels": pod} for pod in labels]
        elif job["job_name"] == "pushgateway":
            job["static_configs"][0]["targets"] = [f"127.0.0.1:{gateway_port}"]
        else:
            assert job.pop("file_sd_configs")  # the store's
            job["static_configs"] = [{"targets": ["127.0.0.1:9"]}]  # nothing answers there
    return config


@dataclass(frozen=True)
class Monitoring:
    """A Prometheus with our configuration and rules, and the Pushgateway that it scrapes."""

    prometheus: str
    gateway: str

    def query(self, expression: str) -> list[dict]:
        words = urllib.parse.urlencode({"query": expression})
        return json.loads(get(f"{self.prometheus}/api/v1/query?{words}"))["data"]["result"]

    def active(self) -> dict[str, str]:
        alerts = json.loads(get(f"{self.prometheus}/api/v1/alerts"))["data"]["alerts"]
        return {a["labels"]["alertname"]: a["state"] for a in alerts}

    def push(self, run: str, **records: dict) -> None:
        """Push as the stages of a run do; `gate_denoising` is the stage gate-denoising."""
        for name, metrics in records.items():
            step = name.replace("_", "-")
            told = StageOutcome(KINDS[name], step, "digits", run, metrics, 2.5, time.time())
            push_outcome(told, pytest.fail, {"EPG_PUSHGATEWAY": self.gateway})


@contextlib.contextmanager
def monitoring(folder: Path, exporter_port: int) -> Iterator[Monitoring]:
    gateway, port = free_port(), free_port()
    config = configuration(exporter_port, gateway)
    rules = yaml.safe_load((K8S / "41-prometheus-rules.yaml").read_text())["data"]["epg.yaml"]
    (folder / "rules").mkdir()
    (folder / "rules" / "epg.yaml").write_text(rules)
    config["rule_files"] = ["rules/*.yaml"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    found = Monitoring(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{gateway}")
    with (
        process(
            "prometheus-pushgateway",
            f"--web.listen-address=127.0.0.1:{gateway}",
            "--persistence.file=",  # Debian's keeps what is pushed to it on disk
        ),
        process(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ),
    ):
        wait_for(lambda: get(f"{found.gateway}/-/ready"))
        wait_for(lambda: get(f"{found.prometheus}/-/ready"))
        yield found


def check_exposition(text: str) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def empty_panels(monitor: Monitoring) -> list[str]:
    """Panels without data, but for those of programs that do not run here."""
    boards = yaml.safe_load((K8S / "51-grafana-dashboards.yaml").read_text())["data"]
    empty = []
    for name, text in boards.items():
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                expression = re.sub(r"\$(namespace|pod)", ".*", target["expr"])
                foreign = re.search(r"minio_|epg:gpu_", expression)
                if not (monitor.query(expression) or foreign):
                    empty.append(f"{name}: {panel['title']}: {expression}")
    return empty


def test_scraped_pushed_drawn_and_alerted(tmp_path):
    metrics = TrainingMetrics("pretrain", total_steps=100)
    exporter = start_exporter(metrics.registry, pytest.fail, {"EPG_METRICS_PORT": "0"})

    assert exporter is not None

    def step(number: int, loss: float) -> None:
        row = {"step": number, "images_seen": 8 * number, "loss": loss, "loss_nce": loss}
        row |= {"learning_rate": 1e-3, "grad_norm": 1.0}
        metrics.update(
            row=row, images_per_second=8.0, data_wait_seconds=number / 9, checkpoint_time=1.0
        )

    with contextlib.closing(exporter), monitoring(tmp_path, exporter.port) as monitor:
        step(1, 2.0)
        check_exposition(get(exporter.url))
        monitor.push("mine", **RECORDS)

        found = wait_for(lambda: monitor.query("epg_train_step"))
        assert len(found) == 1, "one pod is one target"
        labels = found[0]["metric"]
        expected = {
            "namespace": "kubeflow",
            "pod": "pretrain-1",
            "run": "run-1",
            "step": "pretrain",
        }
        assert expected.items() <= labels.items()
        assert labels["stage"] == "pretrain"

        for number in range(2, 8):  # rates need some samples that rise
            step(number, 2.0)
            time.sleep(1)
        assert empty_panels(monitor) == []

        active = monitor.active
        assert not {"EpgNonFiniteLoss", "EpgBadImages", "EpgGateFailed"} & set(active())
        step(9, float("nan"))
        wait_for(lambda: active().get("EpgNonFiniteLoss") == "firing")
        # These wait for minutes by their rule: that they are pending says that they evaluate.
        assert active()["EpgCheckpointTooOld"] in ("pending", "firing")
        assert active()["EpgStoreDown"] in ("pending", "firing")
        groups = json.loads(get(f"{monitor.prometheus}/api/v1/rules"))["data"]["groups"]
        assert {r["health"] for g in groups for r in g["rules"]} == {"ok"}


def test_the_next_run_takes_the_place_of_the_one_before(tmp_path):
    with monitoring(tmp_path, exporter_port=9) as monitor:
        monitor.push("first", **RECORDS)
        outcomes = '{recipe="digits", __name__=~"epg_.+"}'
        info = 'epg_outcome_info{step="evaluate-denoising"}'
        pushed = wait_for(lambda: monitor.query(outcomes))
        assert [s["metric"]["run"] for s in monitor.query(info)] == ["first"]

        monitor.push(
            "second",
            shard=RECORDS["shard"] | {"images_skipped": 10},
            count_gflops=RECORDS["count_gflops"],
            pretrain=RECORDS["pretrain"] | {"loss": 0.25},
            evaluate_denoising={"frechet_distance": 1.25, "recall": 0.75, "nfe": 43},
            gate_denoising={"verdict": "fail"},
        )
        wait_for(lambda: [s["metric"]["run"] for s in monitor.query(info)] == ["second"])
        assert len(monitor.query(outcomes)) == len(pushed), "as many series as before"
        (recall,) = monitor.query('epg_eval_recall{step="evaluate-denoising"}')
        assert recall["value"][1] == "0.75"
        names = {"__name__": "epg_eval_recall", "job": "epg"}
        assert recall["metric"] == {**names, "recipe": "digits", "step": "evaluate-denoising"}
        (loss,) = monitor.query('epg_train_final_loss{term="total"}')
        assert loss["value"][1] == "0.25"
        assert monitor.query("epg_eval_svc_agreement > -Inf") == [], "the first run's is gone"
        for alert in ("EpgBadImages", "EpgGateFailed"):
            wait_for(lambda name=alert: monitor.active().get(name) == "firing")
        check_exposition(get(f"{monitor.gateway}/metrics"))

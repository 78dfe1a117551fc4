from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3

from epg.telemetry.exporter import start_exporter
from epg.telemetry.metrics import METRICS, TrainingMetrics

ROOT = Path(__file__).parents[3]
SERVED = [metric for metric in METRICS if not metric.pushed]
ROW = {
    "step": 40,
    "images_seen": 5120,
    "loss": 1.75,
    "loss_contrastive": 1.25,
    "loss_consistency": 0.5,
    "learning_rate": 2e-4,
    "grad_norm": 0.8,
}


@pytest.fixture
def metrics() -> TrainingMetrics:
    return TrainingMetrics(stage="pretrain", total_steps=250)


def value(metrics: TrainingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"stage": "pretrain", **labels})


def test_a_row_reaches_every_series(metrics: TrainingMetrics) -> None:
    before = time.time()
    metrics.update(row=ROW, images_per_second=300.0, data_wait_seconds=1.5)
    metrics.update(checkpoint_time=1000.0)
    assert value(metrics, "epg_train_loss", term="total") == 1.75
    assert value(metrics, "epg_train_loss", term="contrastive") == 1.25
    assert value(metrics, "epg_train_loss", term="consistency") == 0.5
    assert value(metrics, "epg_train_learning_rate") == 2e-4
    assert value(metrics, "epg_train_grad_norm") == 0.8
    assert value(metrics, "epg_train_step") == 40
    assert value(metrics, "epg_train_total_steps") == 250
    assert value(metrics, "epg_train_samples_total") == 5120
    assert value(metrics, "epg_train_images_per_second") == 300.0
    assert value(metrics, "epg_data_wait_seconds_total") == 1.5
    assert value(metrics, "epg_checkpoint_last_success_timestamp_seconds") == 1000.0
    assert before <= (value(metrics, "epg_train_last_step_timestamp_seconds") or 0) <= time.time()


def test_counters_take_absolute_values_and_never_fall(metrics: TrainingMetrics) -> None:
    for seen in (128, 256, 256, 100, 384):
        metrics.update(row={"images_seen": seen}, data_wait_seconds=seen / 128)
    assert value(metrics, "epg_train_samples_total") == 384
    assert value(metrics, "epg_data_wait_seconds_total") == 3.0


def test_what_is_left_out_keeps_its_value(metrics: TrainingMetrics) -> None:
    assert value(metrics, "epg_checkpoint_last_success_timestamp_seconds") is None
    metrics.update(row=ROW)
    metrics.update(images_per_second=10.0)
    assert value(metrics, "epg_train_step") == 40


def test_two_stages_do_not_mix() -> None:
    first, second = TrainingMetrics("pretrain", 1), TrainingMetrics("pretrain", 2)
    first.update(row=ROW)
    assert value(second, "epg_train_step") is None
    assert value(second, "epg_train_total_steps") == 2


def test_the_table_is_what_is_served(metrics: TrainingMetrics) -> None:
    metrics.update(row=ROW, images_per_second=1.0, data_wait_seconds=1.0, checkpoint_time=1.0)
    exporter = start_exporter(metrics.registry, pytest.fail, {"EPG_METRICS_PORT": "0"})
    assert exporter is not None
    text = urllib3.request("GET", exporter.url, timeout=10).data.decode()
    exporter.close()
    served = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert served == {metric.name: metric.kind for metric in SERVED}
    assert "_created" not in text
    assert 'epg_train_loss{stage="pretrain",term="contrastive"} 1.25' in text
    labels = {
        name: tuple(re.findall(r'(\w+)="', braces))
        for name, braces in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE)
    }
    assert labels == {metric.name: metric.labels for metric in SERVED}


def test_names_follow_the_rules() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"epg_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not re.search(r"milli|mega|minutes|percent", metric.name)
        assert metric.help.endswith(".")
        info = {"run", "version"} if metric.name == "epg_outcome_info" else set()
        labels = {"split", "term", "network"} if metric.pushed else {"stage", "term", "version"}
        assert set(metric.labels) <= labels | info
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def markdown_table(*, pushed: bool) -> str:
    """Return the metrics that are pushed, or those that are served, as a table in Markdown."""
    rows = [
        f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |"
        for m in METRICS
        if m.pushed == pushed
    ]
    return "\n".join(["| Metric | Type | Labels | Meaning |", "|---|---|---|---|", *rows]) + "\n"


def test_the_page_in_docs_is_the_table() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for pushed in (False, True):
        table = markdown_table(pushed=pushed)
        assert table in page, f"put the output of markdown_table({pushed=}) in"
    assert set(re.findall(r"\bepg_[a-z0-9_]+", page)) <= {metric.name for metric in METRICS}


@pytest.mark.parametrize("port", ["65536", "9" * 5000, "-1", "1.5", "\u00b2", "http"])
def test_a_port_that_is_none_is_a_warning(metrics: TrainingMetrics, port: str) -> None:
    warnings: list[str] = []
    environment = {"EPG_METRICS_PORT": port, "EPG_METRICS_ADDRESS": "127.0.0.1"}
    exporter = start_exporter(metrics.registry, warnings.append, environment)
    if exporter is not None:
        exporter.close()
    assert "use a port, 0 for any free one, or off" in warnings[0]
    assert len(warnings[0]) < 300


def test_multiprocess_mode_of_the_site_is_none_of_ours(tmp_path: Path) -> None:
    code = (
        "from epg.telemetry.metrics import TrainingMetrics; "
        "m = TrainingMetrics(stage='pretrain', total_steps=1); print('made')"
    )
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "absent"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "made\n", done.stderr


def test_exporter_switched_off(metrics: TrainingMetrics) -> None:
    assert start_exporter(metrics.registry, pytest.fail, {"EPG_METRICS_PORT": "off"}) is None


def test_busy_port_is_replaced_with_a_warning(metrics: TrainingMetrics) -> None:
    warnings: list[str] = []
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        exporter = start_exporter(
            metrics.registry, warnings.append, {"EPG_METRICS_PORT": str(port)}
        )
    assert exporter is not None
    assert exporter.port != port
    assert b"epg_build_info" in urllib3.request("GET", exporter.url, timeout=10).data
    exporter.close()
    (warning,) = warnings
    assert warning.startswith(f"port {port} is not to be had (Address already in use)")
    assert exporter.url in warning


def test_closing_frees_the_port(metrics: TrainingMetrics) -> None:
    first = start_exporter(metrics.registry, pytest.fail, {"EPG_METRICS_PORT": "0"})
    assert first is not None
    first.close()
    again = start_exporter(metrics.registry, pytest.fail, {"EPG_METRICS_PORT": str(first.port)})
    assert again is not None
    assert again.port == first.port
    again.close()


@pytest.mark.parametrize("address", ["192.0.2.1", "no such address"])
def test_address_that_is_not_ours_warns_and_goes_on(metrics: TrainingMetrics, address: str) -> None:
    warnings: list[str] = []
    environment = {"EPG_METRICS_ADDRESS": address, "EPG_METRICS_PORT": "9464"}
    assert start_exporter(metrics.registry, warnings.append, environment) is None
    assert len(warnings) == 1
    assert "no metrics" in warnings[0]
    assert "\n" not in warnings[0]


def test_odd_ports(metrics: TrainingMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "epg.telemetry.exporter._serve", lambda registry, address, port: asked.append(port)
    )
    warnings: list[str] = []
    for text in ("", " 9000 ", "tcp://10.0.0.1:9464", "nine", "70000"):
        start_exporter(metrics.registry, warnings.append, {"EPG_METRICS_PORT": text})
    assert asked == [9464, 9000, 9464, 9464, 9464]
    assert [w.split(":")[0] for w in warnings] == [
        "EPG_METRICS_PORT is 'nine'",
        "EPG_METRICS_PORT is '70000'",
    ]

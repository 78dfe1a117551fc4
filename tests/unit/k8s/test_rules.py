"""Alerts and dashboards speak of metrics that exist; each alert fires and is explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from epg.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[3]
RULES = ROOT / "k8s" / "rules" / "epg.yaml"
# Those of others that we rely on; seen on MinIO of 2025-10, read in DCGM's docs.
OTHERS = {
    "up",
    *("minio_s3_requests_total", "minio_s3_requests_5xx_errors_total"),
    *("minio_s3_traffic_received_bytes", "minio_s3_traffic_sent_bytes"),
    "minio_cluster_capacity_usable_free_bytes",
    "minio_cluster_capacity_usable_total_bytes",
    *("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"),
    "DCGM_FI_DEV_POWER_USAGE",
}
WORDS = {
    *("time", "rate", "deriv", "abs", "increase", "sum", "count", "by", "or", "unless"),
    *("and", "without", "Inf"),
}

GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALL = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDED = {rule["record"] for rule in ALL if "record" in rule}


def dashboards() -> dict[str, dict]:
    manifest = yaml.safe_load((ROOT / "k8s" / "51-grafana-dashboards.yaml").read_text())
    return {name: json.loads(text) for name, text in manifest["data"].items()}


def expressions() -> list[str]:
    panels = [p for board in dashboards().values() for p in board["panels"]]
    return [t["expr"] for p in panels for t in p["targets"]] + [rule["expr"] for rule in ALL]


def names_in(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without) \([^)]*\)", " ", expression)
    return set(re.findall(r"[A-Za-z_][\w:]*", bare)) - WORDS


@pytest.mark.parametrize("expression", expressions())
def test_metrics_exist(expression):
    assert names_in(expression) <= {m.name for m in METRICS} | OTHERS | RECORDED


def test_dashboards_are_complete():
    assert set(dashboards()) == {
        f"epg-{n}.json" for n in ("training", "evaluation", "storage", "gpu")
    }
    for board in dashboards().values():
        assert board["templating"]["list"][0]["name"] == "datasource"
        assert all(p["targets"] and p["title"] for p in board["panels"])


def test_every_alert_has_a_paragraph_and_a_case():
    page = (ROOT / "docs" / "alerts.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n\n((?:(?!^## ).*\n?)+)", page, re.M))
    assert set(sections) == set(ALERTS)
    assert all(len(text.split()) > 20 for text in sections.values())
    cases = yaml.safe_load(RULES.with_name("epg.test.yaml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in cases
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert fired == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize(
    "words", [("check", "rules", "epg.yaml"), ("test", "rules", "epg.test.yaml")]
)
def test_promtool(words):
    ran = subprocess.run(
        ["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

"""Write the manifests that are made from other files; a test says when they are stale.

    .venv/bin/python k8s/generate.py

scripts/*.py -> 11-scripts.yaml; rules/epg.yaml -> 41-prometheus-rules.yaml and
optional/prometheus-operator/prometheusrule.yaml; the dashboards below -> 51-grafana-dashboards.yaml
and optional/grafana/dashboards.yaml.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from epg.measures import MEASURES

HERE = Path(__file__).parent
NOTE = "# Made by k8s/generate.py; do not edit.\n"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PODS = 'namespace=~"$namespace", pod=~"$pod"'

Panel = tuple[str, str, list[tuple[str, str]]]

#: Figures of these kinds are drawn together, under this title and in this unit.
SHARED_PANELS = {
    "distance": ("Fréchet distance (FID and sFID: Inception's)", "short"),
    "fraction": ("Precision and recall", "percentunit"),
    "share": ("Agreement with the class asked for", "percentunit"),
}

TRAINING: list[Panel] = [
    ("Loss by term", "short", [(f"epg_train_loss{{{PODS}}}", "{{stage}} {{term}} {{pod}}")]),
    (
        "Progress",
        "percentunit",
        [(f"epg_train_step{{{PODS}}} / epg_train_total_steps{{{PODS}}}", "{{stage}} {{pod}}")],
    ),
    (
        "Time left",
        "s",
        [
            (
                f"(epg_train_total_steps{{{PODS}}} - epg_train_step{{{PODS}}})"
                f" / (deriv(epg_train_step{{{PODS}}}[10m]) > 0)",
                "{{stage}} {{pod}}",
            )
        ],
    ),
    (
        "Images per second",
        "short",
        [(f"epg_train_images_per_second{{{PODS}}}", "{{stage}} {{pod}}")],
    ),
    ("Learning rate", "sci", [(f"epg_train_learning_rate{{{PODS}}}", "{{stage}} {{pod}}")]),
    ("Gradient norm", "short", [(f"epg_train_grad_norm{{{PODS}}}", "{{stage}} {{pod}}")]),
    (
        "Share of time waiting for data",
        "percentunit",
        [(f"rate(epg_data_wait_seconds_total{{{PODS}}}[5m])", "{{stage}} {{pod}}")],
    ),
    ("Images seen", "short", [(f"epg_train_samples_total{{{PODS}}}", "{{stage}} {{pod}}")]),
    (
        "Age of the last checkpoint",
        "s",
        [
            (
                f"time() - epg_checkpoint_last_success_timestamp_seconds{{{PODS}}}",
                "{{stage}} {{pod}}",
            )
        ],
    ),
    (
        "Time since the last logged step",
        "s",
        [(f"time() - epg_train_last_step_timestamp_seconds{{{PODS}}}", "{{stage}} {{pod}}")],
    ),
]


def _outcome(title: str, unit: str, named: dict[str, str]) -> Panel:
    """Return a panel of outcomes, word of the legend -> metric.

    Without NaN, which stands for what was not measured.
    """
    drawn = [(f"{m} > -Inf", f"{word} {{{{recipe}}}} {{{{step}}}}") for word, m in named.items()]
    return title, unit, [(query, legend.strip()) for query, legend in drawn]


def _figures() -> list[Panel]:
    """Return the panels of what `evaluate` measures, those of one panel together."""
    drawn: dict[tuple[str, str], dict[str, str]] = {}
    for measure in MEASURES:
        if not measure.of_model:  # parameters and operations are count-gflops' outcome
            shared = measure.kind in SHARED_PANELS
            place = SHARED_PANELS[measure.kind] if shared else (measure.label, "short")
            legend = measure.label if shared else ""
            legend += " {{network}}" if measure.shared else ""
            drawn.setdefault(place, {})[legend.strip()] = f"epg_eval_{measure.name}"
    return [_outcome(title, unit, named) for (title, unit), named in drawn.items()]


EVALUATION: list[Panel] = [
    _outcome("Gate passed", "bool_yes_no", {"": "epg_gate_passed"}),
    *_figures(),
    _outcome("Loss at the end of training", "short", {"{{term}}": "epg_train_final_loss"}),
    _outcome("Duration of the step", "s", {"": "epg_step_duration_seconds"}),
    (
        "Last success",
        "dateTimeFromNow",
        [("epg_step_last_success_timestamp_seconds * 1000", "{{recipe}} {{step}}")],
    ),
    (
        "Whose outcomes these are",
        "short",
        [("epg_outcome_info", "{{recipe}} {{step}}: {{run}} (epg {{version}})")],
    ),
    _outcome(
        "Images in the shards",
        "short",
        {"{{split}}": "epg_shard_images", "skipped": "epg_shard_images_skipped"},
    ),
    (
        "Share of images skipped",
        "percentunit",
        [("epg:shard_images_skipped:ratio", "{{recipe}} {{step}}")],
    ),
    _outcome("Size of the shards", "bytes", {"": "epg_shard_bytes"}),
    _outcome("Parameters of the generator", "short", {"": "epg_model_parameters"}),
    _outcome("Operations per evaluation (FLOPs)", "short", {"": "epg_model_flops"}),
]
STORAGE: list[Panel] = [
    ("Store answers", "short", [('up{job="minio"}', "{{instance}}")]),
    (
        "Space left",
        "percentunit",
        [
            (
                "minio_cluster_capacity_usable_free_bytes"
                " / minio_cluster_capacity_usable_total_bytes",
                "{{instance}}",
            )
        ],
    ),
    (
        "Requests per second",
        "reqps",
        [("sum by (api) (rate(minio_s3_requests_total[5m]))", "{{api}}")],
    ),
    (
        "Server errors per second",
        "reqps",
        [("sum by (api) (rate(minio_s3_requests_5xx_errors_total[5m]))", "{{api}}")],
    ),
    (
        "Traffic",
        "Bps",
        [
            ("rate(minio_s3_traffic_received_bytes[5m])", "in"),
            ("rate(minio_s3_traffic_sent_bytes[5m])", "out"),
        ],
    ),
]
GPU: list[Panel] = [
    (
        "GPU use (DCGM)",
        "percentunit",
        [("epg:gpu_utilization:ratio", "{{gpu}} {{exported_pod}}{{pod}}")],
    ),
    (
        "GPU memory (DCGM)",
        "bytes",
        [
            ("epg:gpu_memory_used:bytes", "{{gpu}} used"),
            ("epg:gpu_memory_total:bytes", "{{gpu}} of"),
        ],
    ),
    ("GPU power (DCGM)", "watt", [("epg:gpu_power:watts", "{{gpu}} {{exported_pod}}{{pod}}")]),
    (
        "Without DCGM: images per second",
        "short",
        [("epg_train_images_per_second", "{{stage}} {{pod}}")],
    ),
]
DASHBOARDS: dict[str, tuple[str, list[Panel]]] = {
    "epg-training": ("epg: training", TRAINING),
    "epg-evaluation": ("epg: evaluation across runs", EVALUATION),
    "epg-storage": ("epg: storage", STORAGE),
    "epg-gpu": ("epg: GPU", GPU),
}


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values(epg_build_info, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard(uid: str) -> dict[str, Any]:
    """Return one dashboard in Grafana's JSON model."""
    title, panels = DASHBOARDS[uid]
    drawn = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": name,
            "datasource": SOURCE,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": [
                {"refId": chr(65 + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
                for i, (expr, legend) in enumerate(queries)
            ],
        }
        for number, (name, unit, queries) in enumerate(panels)
    ]
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    used = [label for label in ("namespace", "pod") if any(f"${label}" in str(p) for p in panels)]
    return {
        "uid": uid,
        "title": title,
        "tags": ["epg"],
        "schemaVersion": 39,
        "time": {"from": "now-30d" if uid == "epg-evaluation" else "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source, *map(_variable, used)]},
        "panels": drawn,
    }


class _Dumper(yaml.SafeDumper):
    """Several lines are written as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _manifest(**content: Any) -> str:
    return NOTE + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)


def _config_map(name: str, data: dict[str, str], **metadata: Any) -> str:
    return _manifest(
        apiVersion="v1",
        kind="ConfigMap",
        metadata={"name": name, **(metadata or {"namespace": "epg"})},
        data=data,
    )


def files() -> dict[str, str]:
    """Return path below k8s/ -> content, of every generated file."""
    scripts = {path.name: path.read_text() for path in sorted((HERE / "scripts").glob("*.py"))}
    rules = (HERE / "rules" / "epg.yaml").read_text()
    boards = {f"{uid}.json": json.dumps(dashboard(uid), indent=1) + "\n" for uid in DASHBOARDS}
    return {
        "11-scripts.yaml": _config_map("scripts", scripts),
        "41-prometheus-rules.yaml": _config_map("prometheus-rules", {"epg.yaml": rules}),
        "51-grafana-dashboards.yaml": _config_map("grafana-dashboards", boards),
        "optional/prometheus-operator/prometheusrule.yaml": _manifest(
            apiVersion="monitoring.coreos.com/v1",
            kind="PrometheusRule",
            metadata={
                "name": "epg",
                "namespace": "epg",
                "labels": {"release": "kube-prometheus-stack"},
            },
            spec=yaml.safe_load(rules),
        ),
        "optional/grafana/dashboards.yaml": _config_map(
            "epg-dashboards",
            boards,
            labels={"grafana_dashboard": "1"},
            annotations={"grafana_folder": "epg"},
        ),
    }


if __name__ == "__main__":
    for name, content in files().items():
        (HERE / name).write_text(content)

"""What a stage pushes at its end, and that no Pushgateway can harm it."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from epg import __version__
from epg.measures import MEASURES
from epg.telemetry import outcomes
from epg.telemetry.metrics import METRICS
from epg.telemetry.outcomes import OutcomeKind, StageOutcome, outcome_registry, push_outcome

RECORDS: dict[str, dict[str, Any]] = {
    "shard": {
        "images_train": 90,
        "images_held_out": 9,
        "images_skipped": 1,
        "classes": 10,
        "shards": 2,
        "bytes": 4096,
    },
    "count-gflops": {"parameters_encoder": 5, "parameters_generator": 7, "gflops": 0.027},
    "pretrain": {"step": 40, "images_seen": 99, "loss": 1.75, "loss_nce": 1.25, "grad_norm": 0.8},
    "evaluate-denoising": {measure.name: 0.5 for measure in MEASURES},
    "gate-denoising": {"verdict": "pass", "reason": "recall is 0.7 (at least 0.5)"},
    "register-denoising": {"model": "digits-denoising", "version": "v1"},
}
KINDS: dict[str, OutcomeKind] = {
    "shard": "shards",
    "count-gflops": "costs",
    "pretrain": "training",
    "finetune-consistency": "training",
    "evaluate-denoising": "evaluation",
    "evaluate-consistency": "evaluation",
    "gate-denoising": "verdict",
    "register-denoising": "nothing",
}


def outcome(step: str, metrics: dict | None = None) -> StageOutcome:
    given = RECORDS[step] if metrics is None else metrics
    return StageOutcome(KINDS[step], step, "digits", "mine", given, 12.5, 1e9)


def values(told: StageOutcome) -> dict[str, float]:
    """Name, with the values of its labels, -> value."""
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in outcome_registry(told).collect()
        for sample in family.samples
    }


class Gateway(BaseHTTPRequestHandler):
    address: str
    got: ClassVar[list[tuple[str, str, str]]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.got.append((self.command, self.path, body))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"epg_gate_passed is\nno GAUGE\n")

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def gateway() -> Iterator[type[Gateway]]:
    class Handler(Gateway):
        got: ClassVar = []

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Handler.address = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Handler
    server.shutdown()
    server.server_close()


def test_every_stage_tells_when_how_long_and_of_which_run():
    for step in RECORDS:
        found = values(outcome(step))
        assert found["epg_step_last_success_timestamp_seconds"] == 1e9
        assert found["epg_step_duration_seconds"] == 12.5
        assert found[f"epg_outcome_info/mine/{__version__}"] == 1
    assert len(values(outcome("register-denoising"))) == 3


def test_what_the_stages_tell():
    assert {
        "epg_shard_images/train": 90,
        "epg_shard_images/held-out": 9,
        "epg_shard_images_skipped": 1,
        "epg_shard_bytes": 4096,
    }.items() <= values(outcome("shard")).items()
    costs = values(outcome("count-gflops"))
    assert costs["epg_model_parameters"] == 7
    assert costs["epg_model_flops"] == pytest.approx(0.027e9)
    trained = {"epg_train_final_loss/total": 1.75, "epg_train_final_loss/nce": 1.25}
    for step in ("pretrain", "finetune-consistency"):
        assert trained.items() <= values(outcome(step, RECORDS["pretrain"])).items()
    assert values(outcome("gate-denoising"))["epg_gate_passed"] == 1
    assert values(outcome("gate-denoising", {"verdict": "fail"}))["epg_gate_passed"] == 0


def test_all_that_a_gate_can_ask_for_is_told():
    told = [outcome_registry(outcome(step)) for step in ("evaluate-denoising", "count-gflops")]
    names = {family.name for registry in told for family in registry.collect()}
    costs = {"parameters": "epg_model_parameters", "gmacs": "epg_model_flops"}
    for measure in MEASURES:
        assert costs.get(measure.name, f"epg_eval_{measure.name}") in names


def test_a_figure_in_a_further_network_is_a_series_of_its_own():
    metrics = {"precision": 0.5, "precision_inception": 0.25, "recall_none": 1.0}
    found = values(outcome("evaluate-denoising", metrics))
    precision = {name: value for name, value in found.items() if "precision" in name}
    assert precision == {"epg_eval_precision/": 0.5, "epg_eval_precision/inception": 0.25}
    assert not any("none" in name for name in found)


def test_what_was_not_measured_or_is_no_number_is_nan():
    found = values(outcome("evaluate-consistency", {"recall": None, "precision": "?", "nfe": 1}))
    assert found["epg_eval_nfe"] == 1
    for name in ("epg_eval_recall/", "epg_eval_precision/", "epg_eval_fid"):
        assert math.isnan(found[name])
    assert math.isnan(values(outcome("count-gflops", {}))["epg_model_flops"])


def test_every_row_of_the_table_is_told_by_some_stage():
    told = {name.partition("/")[0] for step in RECORDS for name in values(outcome(step))}
    assert told == {metric.name for metric in METRICS if metric.pushed}


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_it_is_added_to_the_group_of_recipe_and_step(gateway, scheme):
    environment = {"EPG_PUSHGATEWAY": f" {scheme}{gateway.address}/ "}
    push_outcome(outcome("gate-denoising"), pytest.fail, environment)
    ((method, path, body),) = gateway.got
    assert method == "POST", "PUT would replace the group"
    assert path == "/metrics/job/epg/recipe/digits/step/gate-denoising"
    assert "# TYPE epg_gate_passed gauge\nepg_gate_passed 1.0\n" in body
    assert f'epg_outcome_info{{run="mine",version="{__version__}"}} 1.0\n' in body
    assert body.count("mine") == 1


def test_without_an_address_nothing_happens_and_nothing_is_imported(monkeypatch):
    told = outcome("gate-denoising")
    monkeypatch.setattr(outcomes, "outcome_registry", lambda told: pytest.fail("was asked"))
    for environment in ({}, {"EPG_PUSHGATEWAY": ""}, {"EPG_PUSHGATEWAY": " "}):
        push_outcome(told, pytest.fail, environment)
    program = (
        "import sys; from epg.telemetry.outcomes import *; "
        "push_outcome(StageOutcome('shards', 'shard', 'digits', 'mine', {}, 1.0, 1.0), print, {}); "
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def warning_of(address: str) -> str:
    warnings: list[str] = []
    begun = time.monotonic()
    push_outcome(outcome("shard"), warnings.append, {"EPG_PUSHGATEWAY": address})
    assert time.monotonic() - begun < 8
    (warning,) = warnings
    assert "\n" not in warning
    assert "EPG_PUSHGATEWAY" in warning
    return warning


def test_nobody_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        said = warning_of(f"http://127.0.0.1:{port}")
    assert said.startswith(f"outcome not pushed to http://127.0.0.1:{port} (Connection refused)")


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(outcomes, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        assert "timed out" in warning_of(f"127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - begun < 3


def test_a_refusal(gateway):
    gateway.status = 400
    assert "(Bad Request: epg_gate_passed is no GAUGE)" in warning_of(gateway.address)


@pytest.mark.parametrize(
    "address",
    [
        *("ftp://a:21", "http://", "http://a:port", "http://a:99999", "http://[::1"),
        *("http://me:word@127.0.0.1:1", "http://127.0.0.1:1?a=b"),
    ],
)
def test_an_address_that_is_none(address):
    said = warning_of(address)
    assert said.endswith("use http://HOST:PORT")
    assert "word" not in said


def test_an_odd_name_of_a_host():
    assert "not pushed to http://no such host:1" in warning_of("no such host:1")


def test_a_client_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "prometheus_client" in warning_of("127.0.0.1:1")

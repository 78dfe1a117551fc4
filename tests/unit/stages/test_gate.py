from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.measures import FIGURES
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.gate import check_bounds, gate, gate_component, judge

METRICS = {"svc_agreement": 0.9512345678, "recall": 0.4, "frechet_distance": 1.5, "nfe": 75}


def make_run(tmp_path: Path, bounds: dict, metrics: dict = METRICS) -> Run:
    overrides = {"gate.denoising": bounds, "gate.consistency": {}}
    run = Run.open("smoke", overrides, str(tmp_path), "a-run")
    record = StageRecord(
        stage="evaluate-denoising",
        fingerprint="f",
        config={},
        inputs={},
        outputs={
            "metrics": {"key": "x", "sha256": f"{hash(str(metrics)) % 2**64:064x}", "size": 1}
        },
        metrics=metrics,
        details={},
        started="2026-11-23T00:00:00+00:00",
        finished="2026-11-23T00:00:01+00:00",
        duration_seconds=0.0,
        versions={},
    )
    run.store.put_bytes("stages/evaluate-denoising.json", record.to_json())
    return run


@pytest.mark.parametrize(
    ("bounds", "verdict", "reason"),
    [
        ({}, "pass", "the recipe asks for nothing"),
        ({"svc_agreement": {"min": 0.93}}, "pass", "svc_agreement is 0.9512 (at least 0.93)"),
        (
            {"nfe": {"min": 75, "max": 75}},
            "pass",
            "nfe is 75 (at least 75); nfe is 75 (at most 75)",
        ),
        ({"recall": {"min": 0.5}}, "fail", "recall is 0.4, at least 0.5 is asked for"),
        ({"frechet_distance": {"max": 1}}, "fail", "frechet_distance is 1.5, at most 1 is asked"),
        ({"precision": {"min": 0}}, "fail", "precision was not measured"),
        ({"fid": {"max": 9}}, "fail", "fid was not measured (it needs evaluate.networks: [inc"),
        (
            {"recall_inception": {"min": 0}},
            "fail",
            "recall_inception was not measured (it needs evaluate.networks: [inception])",
        ),
    ],
)
def test_verdict_and_reason(bounds, verdict, reason):
    found, why = judge(METRICS, bounds)
    assert found == verdict
    assert why.startswith(reason)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.9", None])
@pytest.mark.parametrize("bound", [{"min": -1e300}, {"max": 1e300}])
def test_what_is_no_finite_number_fails(value, bound):
    verdict, reason = judge({"recall": value}, {"recall": bound})
    assert verdict == "fail"
    assert reason.startswith("recall")


def test_every_missed_bound_is_told():
    verdict, reason = judge(METRICS, {"recall": {"min": 0.5}, "nfe": {"max": 1}})
    assert verdict == "fail"
    assert "recall is 0.4" in reason
    assert "nfe is 75" in reason


def test_a_near_miss_is_shown_as_one():
    verdict, reason = judge({"recall": 0.49999999}, {"recall": {"min": 0.5}})
    assert verdict == "fail"
    assert reason == "recall is 0.49999999, at least 0.5 is asked for"


def test_record_keeps_the_verdict(tmp_path):
    run = make_run(tmp_path, {"svc_agreement": {"min": 0.96}})
    record = gate(run, "denoising")
    assert record.metrics["verdict"] == "fail"
    assert record.metrics["reason"] == "svc_agreement is 0.9512, at least 0.96 is asked for"


def test_verdict_is_made_anew_when_bounds_or_metrics_change(tmp_path):
    assert (
        gate(make_run(tmp_path, {"recall": {"min": 0.5}}), "denoising").metrics["verdict"] == "fail"
    )
    assert (
        gate(make_run(tmp_path, {"recall": {"min": 0.3}}), "denoising").metrics["verdict"] == "pass"
    )
    worse = make_run(tmp_path, {"recall": {"min": 0.3}}, METRICS | {"recall": 0.1})
    assert gate(worse, "denoising").metrics["verdict"] == "fail"


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"svc_agrement": {"min": 0.9}}, "did you mean 'svc_agreement'"),
        ({"precision_incepton": {"min": 0.9}}, "did you mean 'precision_inception'"),
        ({"nfe_inception": {"max": 1}}, "unknown metric 'nfe_inception'"),
        ({"beauty": {"min": 0.9}}, "there are class_agreement, classifier_held_out_accuracy, fid"),
        ({"recall": {}}, "gate.denoising.recall has no bound"),
    ],
)
def test_senseless_bounds_are_refused(bounds, message):
    recipe = load_recipe("smoke", {"gate.denoising": bounds})
    with pytest.raises(UserError) as caught:
        check_bounds(recipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["digits", "smoke"])
def test_packaged_recipes_ask_for_metrics_that_exist(recipe):
    check_bounds(load_recipe(recipe))


def test_every_metric_can_be_asked_for(tmp_path):
    metrics = dict.fromkeys(FIGURES, 0.5)
    run = make_run(tmp_path, {name: {"min": 0.5} for name in FIGURES}, metrics)
    assert gate(run, "denoising").metrics["verdict"] == "pass"


def test_before_the_evaluation_there_is_no_verdict(tmp_path):
    run = make_run(tmp_path, {})
    with pytest.raises(UserError, match="'evaluate-consistency' of run 'a-run' is not done"):
        gate(run, "consistency")
    with pytest.raises(UserError, match="objective 'gan'"):
        gate(run, "gan")


def test_component_returns_the_verdict(tmp_path):
    make_run(tmp_path, {})
    overrides = {"gate.denoising": {"recall": {"min": 0.3}}}
    arguments = {"recipe": "smoke", "store": str(tmp_path), "run_name": "a-run"}
    verdict = gate_component(metrics=None, objective="denoising", overrides=overrides, **arguments)
    assert verdict == "pass"


def test_component_says_in_one_line_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        gate_component(
            metrics=None,
            objective="denoising",
            recipe="smoke",
            overrides={"gate.denoising": {"recal": {"min": 1}}},
            store=str(tmp_path),
            run_name="a-run",
        )
    assert caught.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("epg: error: gate-denoising: gate.denoising.recal: unknown metric")
    told = json.loads((tmp_path / "a-run" / "failures" / "gate-denoising.json").read_text())
    assert told["message"] in last

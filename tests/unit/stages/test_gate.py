from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.measures import FIGURES
from epg.protocol import FACTS, HASHES
from epg.registry import open_registry
from epg.registry.base import EVALUATION_FILE
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.champion import Champion, find_champion
from epg.stages.gate import check_bounds, floor, gate, gate_component, judge

METRICS = {"svc_agreement": 0.9512345678, "recall": 0.4, "frechet_distance": 1.5, "nfe": 75}


def make_run(tmp_path: Path, bounds: dict, metrics: dict = METRICS, **settings: bool) -> Run:
    overrides: dict[str, Any] = {"gate.denoising": bounds, "gate.consistency": {}}
    overrides |= {f"gate.{name}": value for name, value in settings.items()}
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
        ({"recall": {"champion": 0.0}}, "pass", "recall is 0.4 (no champion is registered yet)"),
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
        (
            {"beauty": {"min": 0.9}},
            "there are class_agreement, classifier_held_out_",
        ),
        ({"recall": {}}, "gate.denoising.recall has no bound"),
        ({"variety": {"champion": 0.1}}, "neither more nor less of variety is better"),
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


NOISE = {"class_agreement": 0.096, "recall": 0.001, "variety": 0.7, "num_samples": 50_000}
GOOD = {"class_agreement": 0.9, "recall": 0.3, "variety": 0.9, "num_samples": 50_000}


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, ""),
        ({"class_agreement": 0.12}, "class_agreement is 0.12, at least 0.145 is asked for"),
        ({"recall": 0.001}, "recall is 0.001, at least 0.01 is asked for"),
        ({"variety": 0.001}, "variety is 0.001, at least 0.05 is asked for"),
        ({"recall": None}, "recall was not measured"),
        ({"variety": math.nan}, "variety is nan, not a finite number"),
        (NOISE, "class_agreement is 0.096"),
    ],
)
def test_a_recipe_that_asks_for_nothing_gets_a_floor(tmp_path, changed, missed):
    record = gate(make_run(tmp_path, {}, GOOD | changed), "denoising")
    assert record.metrics["verdict"] == ("fail" if missed else "pass")
    assert missed in record.metrics["reason"]
    if missed:
        assert "gate.floor=false" in record.metrics["reason"]


def test_below_the_floor_one_has_to_say_so(tmp_path):
    record = gate(make_run(tmp_path, {}, NOISE, floor=False), "denoising")
    assert record.metrics["verdict"] == "pass"
    record = gate(make_run(tmp_path, {"recall": {"min": 0.0}}, NOISE), "denoising")
    assert record.metrics["verdict"] == "pass"  # the recipe has asked for something


def test_chance_of_few_images_is_wide():
    few, many = (floor(GOOD | {"num_samples": n}, 10)["class_agreement"] for n in (30, 50_000))
    assert few["min"] == pytest.approx(0.1 + 3 * math.sqrt(0.09 / 30), abs=1e-6)
    assert many["min"] == pytest.approx(0.145)
    assert "class_agreement" not in floor({"recall": 0.2}, 10)  # no judge knows classes
    assert "class_agreement" not in floor(GOOD, 1)


HELD = {HASHES: {"fid": "aa", "recall": "bb"}, FACTS: {"num_samples": 50_000}}
OTHER = {HASHES: {"fid": "cc", "recall": "bb"}, FACTS: {"num_samples": 10_000}}


@pytest.mark.parametrize(
    ("value", "margin", "verdict"),
    [
        (2.0, 0.0, "pass"),
        (2.1, 0.0, "fail"),
        (2.1, 0.05, "pass"),
        (2.0, -0.01, "fail"),
        (1.9, -0.01, "pass"),
    ],
)
def test_lower_is_better_than_the_champion(value, margin, verdict):
    champion = Champion("m:v1", "d", {"fid": 2.0}, HELD)
    found, reason = judge({"fid": value}, {"fid": {"champion": margin}}, HELD, champion)
    assert found == verdict
    assert "against the champion m:v1's 2" in reason


@pytest.mark.parametrize(("value", "verdict"), [(0.5, "pass"), (0.46, "pass"), (0.44, "fail")])
def test_higher_is_better_than_the_champion(value, verdict):
    champion = Champion("m:v1", "d", {"recall": 0.5}, HELD)
    assert judge({"recall": value}, {"recall": {"champion": 0.1}}, HELD, champion)[0] == verdict


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        (Champion("m:v1", "d", {"fid": 2.0}, OTHER), "num_samples is 50000, not 10000"),
        (Champion("m:v1", "d", {"fid": 2.0}, {}), "no protocol is known of it"),
        (Champion("m:v1", "", {}, {}), "fid of the champion m:v1 is not known"),
        (Champion("m:v1", "d", {"fid": None}, HELD), "fid of the champion m:v1 is not known"),
    ],
)
def test_a_champion_that_cannot_be_compared_with_fails_the_gate(champion, reason):
    found, why = judge({"fid": 1.0}, {"fid": {"champion": 0.5}}, HELD, champion)
    assert found == "fail"
    assert reason in why


def test_the_newest_registered_model_is_the_champion(tmp_path):
    run = make_run(tmp_path, {"recall": {"champion": 0.1}})
    assert find_champion(run, "denoising", "x") is None
    registry = open_registry(run.registry)
    for number, recall in enumerate((0.2, 0.5)):
        weights, told = tmp_path / f"{number}.safetensors", tmp_path / f"{number}.json"
        weights.write_bytes(bytes([number]))
        content = {"objective": "denoising", "metrics": {"recall": recall}, "details": HELD}
        told.write_text(json.dumps(content))
        registry.register(
            "smoke-denoising",
            weights,
            recipe_yaml="",
            metrics={},
            card="",
            extra={EVALUATION_FILE: told},
        )
    champion = find_champion(run, "denoising", "x")
    assert champion is not None
    assert (champion.name, champion.metrics) == ("smoke-denoising:v2", {"recall": 0.5})
    own = hashlib.sha256(bytes([1])).hexdigest()
    before = find_champion(run, "denoising", own)  # nobody is its own champion
    assert before is not None
    assert before.name == "smoke-denoising:v1"
    record = gate(run, "denoising")
    assert record.metrics["verdict"] == "fail"
    assert "no protocol is known of it" in record.metrics["reason"]
    assert record.details["champion"] == "smoke-denoising:v2"

    (tmp_path / "registry/smoke-denoising/v2/evaluation.json").write_text("[]")
    with pytest.raises(UserError, match="the champion's figures cannot be read"):
        find_champion(run, "denoising", "x")


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

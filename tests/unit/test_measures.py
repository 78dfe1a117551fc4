"""One table, and every place where a figure appears reads it."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from epg.console.results import results_table
from epg.measures import FIGURES, MEASURES, NETWORKS, Measure, find, measured
from epg.registry.card import CardFacts, render_card
from epg.report.page import render_page
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.gate import judge
from epg.telemetry.metrics import METRICS
from tests.unit.report.example import example
from tests.unit.report.pages import check_page

ROOT = Path(__file__).parents[2]
#: A recipe that judges by Inception first: what the classifier gives is still named for it.
CALLED = {"inception": "inception-2015", "classifier": "digits-cnn"}
MOMENT = "2026-11-23T00:00:00+00:00"
ALL = dict.fromkeys(FIGURES, 0.5)
each_figure = pytest.mark.parametrize("measure", FIGURES.values(), ids=FIGURES)
each_measure = pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)


@pytest.fixture(scope="module")
def report() -> str:
    facts = example()
    stage = "evaluate-denoising"
    details = {"feature_networks": CALLED}
    records = {**facts.records, stage: replace(facts.records[stage], metrics=ALL, details=details)}
    return " ".join(check_page(render_page(replace(facts, records=records))).text.split())


@pytest.fixture(scope="module")
def card() -> str:
    data = {"source": "digits", "image_size": 8, "channels": 1, "classes": ["0"]}
    return render_card(
        CardFacts(
            model="digits-denoising",
            objective="denoising",
            recipe_name="digits",
            description="",
            data={**data, "train": 1, "held_out": 1},
            settings={},
            metrics=ALL,
            features=CALLED,
        )
    )


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = Run.open("smoke", {}, str(tmp_path_factory.mktemp("runs")), "mine")
    record = StageRecord("evaluate-denoising", "f", {}, {}, {}, ALL, {}, MOMENT, MOMENT, 0.0, {})
    run.store.put_bytes("stages/evaluate-denoising.json", record.to_json())
    table = results_table(run, ["evaluate-denoising"])
    text = StringIO()
    Console(file=text, width=100).print(table)
    return text.getvalue()


@pytest.fixture(scope="module")
def dashboards() -> str:
    return (ROOT / "k8s" / "51-grafana-dashboards.yaml").read_text(encoding="utf-8")


@each_figure
def test_a_figure_stands_in_report_card_and_terminal(
    measure: Measure, report: str, card: str, terminal: str
) -> None:
    value = measure.write(0.5)
    code = {kind: f"`{name}`" for kind, name in CALLED.items()}
    assert f"{measure.label}" in report
    assert measure.explain(CALLED) in report
    (row,) = [line for line in card.splitlines() if line.startswith(f"| `{measure.name}` |")]
    assert row.startswith(f"| `{measure.name}` | {value} | {measure.meaning(code)}")
    lines = dict(re.findall(r"^ *(\S.*?)  +(\S+(?: %)?) *$", terminal, re.MULTILINE))
    assert lines[measure.label] == value
    head = yaml.safe_load(card.split("---\n", 2)[1])
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert measure.name in {metric["type"] for metric in metrics}


@each_figure
def test_a_figure_can_be_asked_for_and_its_absence_says_what_it_needs(measure: Measure) -> None:
    bounds = {measure.name: {"min": 0.5}}
    assert judge(ALL, bounds)[0] == "pass"
    verdict, reason = judge({}, bounds)
    assert verdict == "fail"
    assert measure.needs in reason


@each_measure
def test_a_figure_is_pushed_and_drawn(measure: Measure, dashboards: str) -> None:
    costs = {"parameters": "epg_model_parameters", "gmacs": "epg_model_flops"}
    assert (measure.name in costs) == measure.of_model
    name = costs.get(measure.name, f"epg_eval_{measure.name}")
    assert name in {metric.name for metric in METRICS if metric.pushed}
    assert f'"expr": "{name} > -Inf"' in dashboards


def test_dashboards_draw_no_other_figure(dashboards: str) -> None:
    drawn = {word for word in dashboards.replace('"', " ").split() if word.startswith("epg_eval_")}
    assert drawn == {f"epg_eval_{measure.name}" for measure in MEASURES if not measure.of_model}


def test_a_figure_in_a_further_network_is_found_and_named_for_it() -> None:
    found = find("precision_inception")
    assert found is not None
    assert (found.base, found.networks, found.label) == (
        "precision",
        ("inception",),
        "Precision (Inception)",
    )
    assert found.write(0.6789) == "0.679"
    assert found.explain(CALLED).endswith("in features of inception-2015")
    assert found.explain().endswith("in features of Inception")


def test_a_figure_is_explained_by_the_network_that_gave_it() -> None:
    assert FIGURES["precision"].explain(CALLED).endswith("in features of inception-2015")
    assert FIGURES["precision"].meaning().endswith("in features of the feature network")
    assert FIGURES["frechet_distance"].explain(CALLED).endswith("in features of digits-cnn")
    assert "that the pipeline's classifier reads" in FIGURES["class_agreement"].meaning()


def test_the_networks_are_those_of_recipes() -> None:
    from epg.evaluation.features.networks import NETWORKS as OPENED

    assert set(NETWORKS) == set(OPENED)


@pytest.mark.parametrize("name", ["nfe_inception", "fid_inception", "precision_x", ""])
def test_what_is_no_figure_is_not_found(name: str) -> None:
    assert find(name) is None


def test_figures_come_in_the_order_of_the_table() -> None:
    names = ["nfe", "recall_inception", "verdict", "precision", "recall", "nfe"]
    assert [m.name for m in measured(names)] == ["precision", "recall", "recall_inception", "nfe"]


def test_the_table_is_sound() -> None:
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    assert len({measure.label for measure in FIGURES.values()}) == len(FIGURES)
    for measure in FIGURES.values():
        assert set(measure.networks) <= set(NETWORKS)
        assert measure.write(None) == "–"
        assert measure.write(float("nan")) == "not finite"
        assert not measure.explanation.endswith(".")
        assert "{" not in measure.meaning()

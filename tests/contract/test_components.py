"""Components are their stages' signatures, and the compiled pipeline is fit for both engines."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
import yaml

from epg.cluster.compile.document import PipelineDocument
from epg.stages.catalog import HELPING, OBJECTIVES, ON_DEMAND, STAGES
from tests.toys.command import ROOT

COMPONENTS = sorted(path.parent.name for path in ROOT.glob("components/*/component.py"))
ARTIFACTS = {
    "shards": "system.Dataset",
    "statistics": "system.Artifact",
    "encoder": "system.Model",
    "generator": "system.Model",
    "metrics": "system.Metrics",
    "curves": "system.HTML",
    "grid": "system.HTML",
    "page": "system.HTML",
    "plot": "system.HTML",
}


@pytest.fixture(scope="module")
def full() -> PipelineDocument:
    return PipelineDocument.parse((ROOT / "pipelines" / "epg_full.yaml").read_text())


@pytest.fixture(scope="module")
def evaluate() -> PipelineDocument:
    return PipelineDocument.parse((ROOT / "pipelines" / "epg_evaluate.yaml").read_text())


def function_of(name: str) -> Any:
    module = importlib.import_module(f"components.{name}.component")
    return getattr(module, name)


def test_every_stage_has_a_component():
    stages = {name.removesuffix(f"-{o}") for name in STAGES for o in OBJECTIVES}
    stages = {s for s in stages if not s.endswith(OBJECTIVES)}
    apart = {*ON_DEMAND, *(stage.name for stage in HELPING)}
    assert {name.replace("_", "-") for name in COMPONENTS} == stages | apart


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_has_its_stage_s_parameters(name):
    """Each artifact is taken, handed over, shown or followed; the rest the stage takes itself."""
    stage = getattr(importlib.import_module(f"epg.stages.{name}"), f"{name}_component")
    wanted = inspect.signature(function_of(name).python_func)
    parameters = set(wanted.parameters) - {"recipe", "overrides", "store", "run_name"}
    told = {*stage.follows, *stage.hands_over, *stage.shows, *filter(None, [stage.measures])}
    accepted = set(inspect.signature(stage.stage).parameters)
    assert parameters - told <= accepted
    assert set(stage.takes) <= parameters & accepted
    assert told <= parameters
    assert {p.default for p in wanted.parameters.values()} == {inspect.Parameter.empty}


@pytest.mark.parametrize("name", COMPONENTS)
def test_outputs_of_a_component_are_filled(name):
    stage = getattr(importlib.import_module(f"epg.stages.{name}"), f"{name}_component")
    compiled = yaml.safe_load((ROOT / "components" / name / "component.yaml").read_text())
    component = compiled["components"][f"comp-{name.replace('_', '-')}"]
    outputs = set(component.get("outputDefinitions", {}).get("artifacts", {}))
    assert outputs == {*stage.hands_over, *stage.shows, *filter(None, [stage.measures])}
    inputs = set(component["inputDefinitions"].get("artifacts", {}))
    assert inputs == {*stage.takes, *stage.follows}
    returns = component.get("outputDefinitions", {}).get("parameters", {})
    assert bool(returns) == bool(stage.returns)


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_documents_every_parameter(name):
    component = function_of(name).python_func
    for parameter in inspect.signature(component).parameters:
        assert re.search(rf"^\s+{parameter}: \S", component.__doc__, re.M), parameter


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_is_an_import_and_a_call_of_the_stage_with_all_names(name):
    source = inspect.getsource(function_of(name).python_func)
    body = source.rpartition('"""')[2].split()
    assert body[:4] == ["from", f"epg.stages.{name}", "import", f"{name}_component"]
    call = re.sub(r"\s+", "", source.rpartition(f"{name}_component(")[2].rstrip()[:-1])
    names = list(inspect.signature(function_of(name).python_func).parameters)
    assert call == "".join(f"{n}={n}," for n in names)


@pytest.mark.parametrize("name", COMPONENTS)
def test_artifacts_have_the_documented_types(name):
    compiled = yaml.safe_load((ROOT / "components" / name / "component.yaml").read_text())
    component = compiled["components"][f"comp-{name.replace('_', '-')}"]
    for side in ("inputDefinitions", "outputDefinitions"):
        for artifact, definition in component.get(side, {}).get("artifacts", {}).items():
            assert definition["artifactType"]["schemaTitle"] == ARTIFACTS[artifact]


def test_compiled_files_are_fresh():
    from epg.cluster.compile.compiling import stale_files

    assert stale_files() == [], "call `epg compile` and look at the difference"


# --- The compiled pipelines; what every one must satisfy is in test_ir_lint.py ---------------


def test_every_stage_is_a_step_and_every_step_a_stage(full):
    helping = [stage.name for stage in HELPING]
    assert sorted(step.name for step in full.steps()) == sorted([*STAGES, *helping])


def test_pods_that_help_to_shard_are_waited_for_by_no_step(full):
    """A condition that does not hold must not skip what comes after it."""
    (group,) = [key for _, key, task in full.tasks() if "shard_parts" in condition_of(task)]
    assert not [key for _, key, task in full.tasks() if group in task.get("dependentTasks", [])]
    parts = full.spec["components"][f"comp-{group}"]["dag"]["tasks"]
    assert {task["taskInfo"]["name"] for task in parts.values()} == {"shard-plan", "parts"}
    assert full.parameters()["shard_parts"]["defaultValue"] == 1.0


def test_evaluating_again_has_the_steps_of_one_objective(evaluate):
    wanted = {name.removesuffix("-denoising") for name in STAGES if "consistency" not in name}
    assert {step.name for step in evaluate.steps()} == wanted - {"count-gflops"}


def test_evaluating_again_trains_nothing(evaluate):
    reusing = {step.name for step in evaluate.steps() if "EPG_REUSE_ONLY" in step.variables}
    assert reusing == {"pretrain", "finetune"}
    for step in evaluate.steps():
        assert ("accelerator" in step.container["resources"]) == (step.name == "evaluate")


def test_both_branches_and_both_verdicts_are_conditions(full):
    conditions = filter(None, (condition_of(task) for _, _, task in full.tasks()))
    assert sorted(re.sub(r".*channel--|'\]", "", text) for text in conditions) == [
        "consistency == true",
        "denoising == true",
        "gate-2-Output == 'pass'",
        "gate-Output == 'pass'",
        "shard_parts) > 1",
    ]


def condition_of(task: dict[str, Any]) -> str:
    return task.get("triggerPolicy", {}).get("condition", "")


@pytest.mark.parametrize("name", ["full", "evaluate"])
def test_the_report_is_the_exit_handler_and_needs_no_artifact(name, request):
    report = request.getfixturevalue(name).spec["root"]["dag"]["tasks"]["report"]
    assert report["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert "artifacts" not in report["inputs"]
    assert any("taskFinalStatus" in s for s in report["inputs"]["parameters"].values())


def test_only_training_on_accelerators_takes_days_and_is_scraped(full):
    for step in full.steps():
        scraped = "prometheus.io/scrape" in step.pod["podMetadata"].get("annotations", {})
        assert scraped == (step.kind == "training"), step.name
        assert (int(step.pod["activeDeadlineSeconds"]) > 24 * 3600) == scraped, step.name
        accelerated = "accelerator" in step.container["resources"]
        assert accelerated == (step.kind in ("training", "judging")), step.name


def test_parameters_of_a_local_run_exist(full):
    assert {"recipe", "overrides", "run_name", "store", *OBJECTIVES} <= set(full.parameters())


def test_both_pipelines_take_the_same_settings_of_the_cluster(full, evaluate):
    # `begin_at` trains again from a stage; an evaluation only measures.
    own = {"denoising", "consistency", "objective", "begin_at", "shard_parts"}
    assert set(full.parameters()) - own == set(evaluate.parameters()) - own


def test_prometheus_is_sent_to_the_port_that_is_served():
    from epg.telemetry.exporter import DEFAULT_PORT
    from pipelines import policy

    assert str(DEFAULT_PORT) == policy.METRICS_PORT

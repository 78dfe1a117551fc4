"""Components are their stages' signatures, and the compiled pipeline is fit for both engines."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from epg.console.board import OBJECTIVES, STAGES
from tests.toys.command import ROOT

COMPONENTS = sorted(path.parent.name for path in ROOT.glob("components/*/component.py"))
PIPELINE = ROOT / "pipelines" / "epg_full.yaml"
ARTIFACTS = {
    "shards": "system.Dataset",
    "statistics": "system.Artifact",
    "encoder": "system.Model",
    "generator": "system.Model",
    "metrics": "system.Metrics",
    "curves": "system.HTML",
    "grid": "system.HTML",
    "page": "system.HTML",
}
# Caching of kubeflow.md: what is deterministic is reused; training, effects, decisions are not.
CACHED = {"shard", "count-gflops", "reference-statistics", "evaluate"}
# Text that is a number on purpose: a server resolves nothing but text in a pod's resources.
NUMBER_TEXTS = {"accelerator_count"}


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return yaml.safe_load(PIPELINE.read_text())


def dags(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "root", spec["root"]
    for name, component in spec["components"].items():
        if "dag" in component:
            yield name, component


def tasks(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All steps (no groups) with their stage's name."""
    for _, part in dags(spec):
        for task in part["dag"]["tasks"].values():
            component = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                yield task["taskInfo"]["name"], task


def executors(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {k: v["container"] for k, v in spec["deploymentSpec"]["executors"].items()}


def function_of(name: str) -> Any:
    module = importlib.import_module(f"components.{name}.component")
    return getattr(module, name)


def test_every_stage_has_a_component():
    stages = {name.removesuffix(f"-{o}") for name in STAGES for o in OBJECTIVES}
    stages = {s for s in stages if not s.endswith(OBJECTIVES)}
    assert {name.replace("_", "-") for name in COMPONENTS} == stages


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_has_its_stage_s_signature(name):
    stage = getattr(importlib.import_module(f"epg.stages.{name}"), f"{name}_component")
    component = function_of(name).python_func
    wanted = inspect.signature(component)
    assert list(inspect.signature(stage).parameters) == list(wanted.parameters)
    assert [p.default for p in wanted.parameters.values()] == [inspect.Parameter.empty] * len(
        wanted.parameters
    )


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
    from epg.cluster.compiling import stale_files

    assert stale_files() == [], "call `epg compile` and look at the difference"


# --- What the compiled pipeline must satisfy (IR lint) --------------------------------------


def test_every_stage_is_a_step_and_every_step_a_stage(spec):
    assert sorted(name for name, _ in tasks(spec)) == sorted(STAGES)


def test_groups_have_every_input_that_their_steps_refer_to(spec):
    for name, part in dags(spec):
        inputs = part.get("inputDefinitions", {})
        for task in part["dag"]["tasks"].values():
            for kind, key in (("parameters", "Parameter"), ("artifacts", "Artifact")):
                for source in task.get("inputs", {}).get(kind, {}).values():
                    wanted = source.get(f"componentInput{key}")
                    assert wanted is None or wanted in inputs[kind], f"{name}: {wanted}"


def test_every_placeholder_of_a_pod_is_an_input_of_its_step(spec):
    for name, task in tasks(spec):
        executor = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        for wanted in re.findall(
            r"inputs\.parameters\['([^']+)'\]", json.dumps(executors(spec)[executor])
        ):
            assert wanted in task["inputs"]["parameters"], f"{name}: {wanted}"


def test_conditions_look_at_parameters_and_single_return_values_only(spec):
    conditions = [
        task["triggerPolicy"]["condition"]
        for _, part in dags(spec)
        for task in part["dag"]["tasks"].values()
        if "condition" in task.get("triggerPolicy", {})
    ]
    value = (
        r"inputs\.parameter_values\['pipelinechannel--(denoising|consistency|gate(-2)?-Output)'\]"
    )
    assert len(conditions) == 4
    for condition in conditions:
        assert re.fullmatch(rf"{value} == ('pass'|true)", condition), condition


def test_each_group_takes_a_parameter(spec):
    for _, part in dags(spec):
        for task in part["dag"]["tasks"].values():
            assert task["inputs"]["parameters"]


def test_only_light_components_without_pip(spec):
    text = PIPELINE.read_text()
    assert len(text) < 200_000
    assert "pip install" not in text
    assert "--no-deps" not in text
    for name, container in executors(spec).items():
        assert container["command"][:2] == ["sh", "-ec"], name
        assert "kfp.dsl.executor_main" in container["command"][2], name
        assert len(container["command"][3]) < 4_000, name


def test_each_step_takes_its_image_from_a_parameter(spec):
    for name, container in executors(spec).items():
        assert re.fullmatch(
            r"\{\{\$\.inputs\.parameters\['pipelinechannel--(tools_)?image'\]\}\}",
            container["image"],
        ), name


def test_each_step_states_its_caching(spec):
    for name, task in tasks(spec):
        stage = next((n for n in (name, *_without_objective(name)) if n in CACHED), None)
        assert task["cachingOptions"].get("enableCache", False) == (stage is not None), name


def _without_objective(name: str) -> list[str]:
    return [name.removesuffix(f"-{o}") for o in OBJECTIVES]


def test_retries_are_for_steps_that_resume(spec):
    for name, task in tasks(spec):
        deciding = name.startswith(("gate", "register", "report"))
        assert ("retryPolicy" in task) != deciding, name


def test_the_report_is_the_exit_handler_and_needs_no_artifact(spec):
    report = spec["root"]["dag"]["tasks"]["report"]
    assert report["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert "artifacts" not in report["inputs"]
    assert any("taskFinalStatus" in s for s in report["inputs"]["parameters"].values())
    assert "outputs" not in spec["root"]["dag"]


def test_parameters_are_described_and_survive_the_command_line(spec):
    for name, definition in spec["root"]["inputDefinitions"]["parameters"].items():
        assert definition.get("description"), name
        assert not re.search("secret|password|token|key", name), name
        if definition["parameterType"] == "STRING":
            default = definition["defaultValue"]
            assert ":latest" not in default
            if name not in NUMBER_TEXTS:
                assert isinstance(yaml.safe_load(default), str), f"{name}: {default} is no text"


def test_parameters_of_a_local_run_exist(spec):
    given = {"recipe", "overrides", "run_name", "store", *OBJECTIVES}
    assert given <= set(spec["root"]["inputDefinitions"]["parameters"])

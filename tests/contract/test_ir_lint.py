"""The compiled pipelines satisfy every rule, and every rule catches what it is for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from epg.cluster.compile import lint
from epg.cluster.compile.document import PipelineDocument
from epg.cluster.compile.rules import steps
from tests.toys.command import ROOT

PIPELINES = sorted((ROOT / "pipelines").glob("epg_*.yaml"))
RULES = {rule.__name__: rule for rule in lint.RULES}
FULL = PipelineDocument.parse((ROOT / "pipelines" / "epg_full.yaml").read_text())


def test_all_pipelines_are_there():
    names = [path.stem for path in PIPELINES]
    assert names == ["epg_evaluate", "epg_full", "epg_sweep"]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_the_compiled_pipeline_satisfies_every_rule(path):
    assert lint.lint(path.read_text()) == []


def test_the_folder_with_its_manifests_is_without_findings():
    assert lint.lint_folder(ROOT / "pipelines") == []


def test_a_missing_manifest_is_found(tmp_path):
    (tmp_path / "epg_full.yaml").write_text(FULL.text)
    assert lint.lint_folder(tmp_path) == ["k8s-native/epg_full.yaml: missing (run `epg compile`)"]


def test_compiling_again_gives_the_same_bytes():
    from epg.cluster.compile.compiling import compile_targets

    first = {target.path: content for target, content in compile_targets()}
    assert {target.path: content for target, content in compile_targets()} == first


# --- Each rule, with what it must catch -----------------------------------------------------


def root(name: str) -> Any:
    return lambda p: p.spec["root"]["dag"]["tasks"][name]


def within(group: str, name: str) -> Any:
    return lambda p: p.spec["components"][group]["dag"]["tasks"][name]


def container(p: PipelineDocument, name: str = "exec-finetune") -> dict[str, Any]:
    return p.spec["deploymentSpec"]["executors"][name]["container"]


def pod(p: PipelineDocument, name: str = "exec-finetune") -> dict[str, Any]:
    return p.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]


def parameter(p: PipelineDocument, name: str, **changes: Any) -> None:
    p.spec["root"]["inputDefinitions"]["parameters"].setdefault(
        name, {"description": "d", "parameterType": "STRING", "defaultValue": "x"}
    ).update(changes)


def finetune(p: PipelineDocument) -> dict[str, Any]:
    return within("comp-condition-2", "finetune")(p)


def iterating(p: PipelineDocument, count: int) -> None:
    items = "[" + ", ".join("1" for _ in range(count)) + "]"
    finetune(p)["parameterIterator"] = {"itemInput": "x", "items": {"raw": items}}


def condition(text: str) -> Any:
    def change(p: PipelineDocument) -> None:
        task = within("comp-exit-handler-1", "condition-2")(p)
        task["triggerPolicy"]["condition"] = text

    return change


def nested(p: PipelineDocument) -> None:
    iterating(p, 2)
    task = within("comp-exit-handler-1", "condition-2")(p)
    task["parameterIterator"] = {"itemInput": "x", "items": {"raw": "[1]"}}


def choosing(p: PipelineDocument) -> None:
    group = p.spec["components"]["comp-condition-2"]["dag"]
    group["outputs"] = {"artifacts": {"best": {"artifactSelectors": [{"a": 1}, {"b": 2}]}}}


def value(name: str) -> str:
    return f"inputs.parameter_values['pipelinechannel--{name}']"


VIOLATIONS = [
    ("conditions", condition(value("recipe") + " == 'it's'"), "not `parameter == literal`"),
    ("conditions", condition(value("denoising") + " < 3"), "not `parameter == literal`"),
    ("conditions", condition(f"int({value('gate-loss')}) == 1"), "no single return value"),
    ("conditions", condition(f"int({value('shard_parts')}) < 1"), "not `parameter == literal`"),
    ("conditions", condition(value("recipe") + " == 'digits'"), "free text"),
    ("loops", lambda p: iterating(p, 11), "11 iterations"),
    ("loops", nested, "a loop within the loop"),
    ("loops", lambda p: finetune(p).update(artifactIterator={}), "over artifacts"),
    ("merged_artifacts", choosing, "several artifacts"),
    ("group_inputs", lambda p: finetune(p)["inputs"].pop("parameters"), "takes no parameter"),
    (
        "group_inputs",
        lambda p: finetune(p)["inputs"]["parameters"]["recipe"].update(componentInputParameter="x"),
        "no input 'x'",
    ),
    (
        "group_inputs",
        lambda p: pod(p)["nodeSelector"].update(
            nodeSelectorJson={"componentInputParameter": "node_selector"}
        ),
        "setting 'node_selector' is no input",
    ),
    (
        "placeholders",
        lambda p: container(p).update(image="{{$.inputs.parameters['absent']}}"),
        "'absent' is no input",
    ),
    (
        "placeholders",
        lambda p: container(p).update(
            env=[{"name": "A", "value": "{{$.inputs.parameters['pipelinechannel--store']}}"}]
        ),
        "in the environment",
    ),
    ("light_components", lambda p: container(p).update(command=["sleep", "1"]), "no lightweight"),
    (
        "light_components",
        lambda p: container(p)["command"].insert(2, "pip install x; kfp.dsl.executor_main"),
        "installs packages",
    ),
    (
        "light_components",
        lambda p: container(p)["command"].__setitem__(3, "#" * 4001),
        "4001 characters",
    ),
    ("images", lambda p: container(p).update(image="epg-train:1"), "not a parameter"),
    ("images", lambda p: parameter(p, "image", defaultValue="a:5000/epg"), "neither digest"),
    ("images", lambda p: parameter(p, "image", defaultValue="epg:latest"), "neither digest"),
    ("images", lambda p: pod(p).update(imagePullPolicy="Always"), "pull policy"),
    ("resources", lambda p: pod(p).pop("activeDeadlineSeconds"), "no time limit"),
    ("resources", lambda p: container(p)["resources"].pop("resourceMemoryLimit"), "no limit"),
    (
        "resources",
        lambda p: container(p)["resources"]["accelerator"].pop("resourceCount"),
        "without its count",
    ),
    ("resources", lambda p: pod(p).pop("emptyDirMounts"), "/dev/shm"),
    ("store_access", lambda p: pod(p, "exec-report").pop("secretAsEnv"), "no credentials"),
    ("store_access", lambda p: pod(p)["secretAsEnv"][0].pop("optional"), "must exist"),
    (
        "store_access",
        lambda p: pod(p)["secretAsEnv"][0].pop("secretNameParameter"),
        "not a parameter",
    ),
    ("store_access", lambda p: pod(p).pop("configMapAsEnv"), "no address"),
    ("placement", lambda p: pod(p).pop("nodeSelector"), "node selector"),
    ("placement", lambda p: pod(p).pop("tolerations"), "tolerations"),
    ("caching", lambda p: finetune(p).pop("cachingOptions"), "does not state"),
    ("caching", lambda p: finetune(p)["cachingOptions"].update(enableCache=True), "must be off"),
    ("retries", lambda p: finetune(p).pop("retryPolicy"), "is not tried again"),
    ("retries", lambda p: root("report")(p).update(retryPolicy={}), "is tried again"),
    ("artifacts", lambda p: p.spec["root"]["dag"].update(outputs={"a": 1}), "has outputs"),
    (
        "artifacts",
        lambda p: p.spec["components"]["comp-shard"].update(x={"schemaTitle": "epg.Shards"}),
        "'epg.Shards' is unknown",
    ),
    ("parameters", lambda p: parameter(p, "recipe", description=""), "no description"),
    ("parameters", lambda p: parameter(p, "recipe", defaultValue=None), "no default"),
    ("parameters", lambda p: parameter(p, "api_token"), "named like a secret"),
    (
        "parameters",
        lambda p: parameter(p, "store", defaultValue="s3://me:word@host/bucket"),
        "looks like a credential",
    ),
    ("parameters", lambda p: parameter(p, "recipe", defaultValue="1.10"), "else than text"),
    ("parameters", lambda p: parameter(p, "recipe", defaultValue="no"), "else than text"),
    (
        "parameters",
        lambda p: parameter(p, "rate", parameterType="NUMBER_DOUBLE", defaultValue=1),
        "written as an int",
    ),
    ("parameters", lambda p: parameter(p, "recipe", defaultValue="x" * 100_001), "more than"),
    ("security", lambda p: pod(p, "exec-report").pop("securityContext"), "may run as root"),
    ("security", lambda p: pod(p)["securityContext"].update(runAsUser="0"), "may run as root"),
    ("security", lambda p: pod(p)["securityContext"].update(runAsGroup="1000"), "another group"),
    ("security", lambda p: pod(p).update(hostPathMount=[]), "not known to be allowed"),
    ("telling", lambda p: pod(p)["podMetadata"]["labels"].clear(), "no label"),
    ("telling", lambda p: pod(p)["podMetadata"]["annotations"].clear(), "without annotations"),
    ("telling", lambda p: container(p)["env"].clear(), "cannot be reached"),
    ("telling", lambda p: pod(p)["configMapAsEnv"][0].pop("optional"), "no Pushgateway"),
]


@pytest.mark.parametrize(("rule", "change", "words"), VIOLATIONS)
def test_a_violation_is_found_in_one_line(rule, change, words):
    broken = copy.deepcopy(FULL)
    change(broken)
    findings = list(RULES[rule](broken))
    assert [finding for finding in findings if words in finding], findings
    assert all("\n" not in finding for finding in findings)


def test_a_text_that_is_too_long_or_has_a_workspace_is_found():
    long = PipelineDocument(FULL.text + "#" * 200_000, FULL.spec, FULL.platform)
    assert any("more than 200000" in finding for finding in steps.light_components(long))
    workspace = PipelineDocument(FULL.text + "{{$.workspace_path}}", FULL.spec, FULL.platform)
    assert any("workspace_path" in finding for finding in steps.placeholders(workspace))


def test_every_rule_has_a_violation():
    assert set(RULES) == {rule for rule, _, _ in VIOLATIONS}


# --- Kubernetes-native manifests ------------------------------------------------------------


def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "pipelines/k8s-native/epg_full.yaml").read_text()))


def test_the_manifest_holds_the_compiled_pipeline():
    assert lint.manifest_findings(yaml.safe_dump_all(manifest()), FULL.text) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop(0), "wanted a Pipeline"),
        (lambda m: m[0]["metadata"].update(name="epg_full"), "is no name"),
        (lambda m: m[0]["metadata"].update(namespace="kubeflow"), "namespace"),
        (lambda m: m[1]["spec"].update(pipelineName="other"), "another pipeline"),
        (lambda m: m[1]["spec"].update(pipelineSpec={}), "is not the compiled one"),
        (lambda m: m[1]["spec"].pop("platformSpec"), "are not the compiled ones"),
    ],
)
def test_a_faulty_manifest_is_found(change, words):
    objects = manifest()
    change(objects)
    findings = lint.manifest_findings(yaml.safe_dump_all(objects), FULL.text)
    assert any(words in finding for finding in findings), findings

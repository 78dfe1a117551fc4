"""Rules for a pipeline as a graph: conditions, loops, inputs, artifacts, parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from epg.cluster.compile.document import PipelineDocument

SCHEMAS = {"system.Artifact", "system.Dataset", "system.Model", "system.Metrics", "system.HTML"}
#: Text that is a number on purpose: a server resolves nothing but text in a pod's resources.
NUMBER_TEXTS = {"accelerator_count"}
MAX_DEFAULT = 100_000  # characters of a parameter's default
MAX_ITERATIONS = 10
_VARIABLE = r"inputs\.parameter_values\['pipelinechannel--([\w-]+)'\]"
_CONDITION = re.compile(
    rf"{_VARIABLE} == (?P<literal>'[\w.-]*'|true|false)|int\({_VARIABLE}\) (?:==|>) \d+"
)


def conditions(pipeline: PipelineDocument) -> Iterator[str]:
    """Conditions compare a parameter or a single return value with a plain literal."""
    parameters = {name: p["parameterType"] for name, p in pipeline.parameters().items()}
    for _, key, task in pipeline.tasks():
        condition = task.get("triggerPolicy", {}).get("condition")
        if condition is None:
            continue
        found = _CONDITION.fullmatch(condition)
        if found is None:
            yield f"{key}: condition {condition!r} is not `parameter == literal`"
            continue
        name = found[1] or found[3]
        if name not in parameters and not name.endswith("-Output"):
            yield f"{key}: condition on {name!r}, no parameter and no single return value"
        elif (found["literal"] or "").startswith("'") and name in parameters:
            yield f"{key}: condition on {name!r}, free text: a quote in it fails the run"


def loops(pipeline: PipelineDocument) -> Iterator[str]:
    """Loops are short, take no named outputs, and none lies within another."""
    inner = {
        task["componentRef"]["name"]: key
        for _, key, task in pipeline.tasks()
        if "parameterIterator" in task or "artifactIterator" in task
    }
    for group, key, task in pipeline.tasks():
        iterator = task.get("parameterIterator")
        if "artifactIterator" in task:
            yield f"{key}: a loop over artifacts does not run here"
        if iterator is None:
            continue
        if group in inner:
            yield f"{key}: a loop within the loop {inner[group]!r}"
        raw = iterator.get("items", {}).get("raw")
        if raw is not None and len(json.loads(raw)) > MAX_ITERATIONS:
            yield f"{key}: {len(json.loads(raw))} iterations, more than {MAX_ITERATIONS}"


def merged_artifacts(pipeline: PipelineDocument) -> Iterator[str]:
    """No `OneOf` of artifacts: the local runner has none."""
    for group, part in pipeline.groups():
        for name, output in part["dag"].get("outputs", {}).get("artifacts", {}).items():
            if len(output.get("artifactSelectors", [])) > 1:
                yield f"{group}: output {name!r} chooses among several artifacts"


def group_inputs(pipeline: PipelineDocument) -> Iterator[str]:
    """Each task takes a parameter, and its group has what it refers to."""
    for group, part in pipeline.groups():
        inputs = part.get("inputDefinitions", {})
        for key, task in part["dag"]["tasks"].items():
            if not task.get("inputs", {}).get("parameters"):
                yield f"{key}: takes no parameter"
            for kind, word in (("parameters", "Parameter"), ("artifacts", "Artifact")):
                for source in task.get("inputs", {}).get(kind, {}).values():
                    wanted = source.get(f"componentInput{word}")
                    if wanted is not None and wanted not in inputs.get(kind, {}):
                        yield f"{key}: {group} has no input {wanted!r}"
            label = pipeline.spec["components"][task["componentRef"]["name"]].get("executorLabel")
            pod = pipeline.pods().get(label, {})
            for wanted in re.findall(r'"componentInputParameter": "([^"]+)"', json.dumps(pod)):
                if wanted not in inputs.get("parameters", {}):
                    yield f"{key}: the pod's setting {wanted!r} is no input of {group}"


def artifacts(pipeline: PipelineDocument) -> Iterator[str]:
    """Only known artifact types, and no output of the pipeline from an exit handler."""
    if pipeline.spec["root"]["dag"].get("outputs"):
        yield "the pipeline has outputs: the local runner takes none from an exit handler"
    for name in re.findall(r'"schemaTitle": "([^"]+)"', json.dumps(pipeline.spec)):
        if name not in SCHEMAS:
            yield f"artifact type {name!r} is unknown to the server"


def parameters(pipeline: PipelineDocument) -> Iterator[str]:
    """Parameters have description and default, name no secret, survive the command line."""
    for name, definition in pipeline.parameters().items():
        default = definition.get("defaultValue")
        if not definition.get("description"):
            yield f"{name}: no description"
        if default is None:
            yield f"{name}: no default"
        if re.search("secret|password|token|key", name):
            yield f"{name}: named like a secret, and parameters are shown to everybody"
        if re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s]+:[^/\s]+@", json.dumps(default)):
            yield f"{name}: a default that looks like a credential"
        if len(json.dumps(default)) > MAX_DEFAULT:
            yield f"{name}: a default of more than {MAX_DEFAULT} characters"
        kind = definition["parameterType"]
        if kind == "NUMBER_DOUBLE" and isinstance(default, int):
            yield f"{name}: a float whose default is written as an int"
        text = kind == "STRING" and isinstance(default, str) and name not in NUMBER_TEXTS
        if text and default and not isinstance(yaml.safe_load(str(default)), str):
            yield f"{name}: default {default!r} is read as something else than text"

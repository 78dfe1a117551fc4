"""What a compiled pipeline must satisfy to run on a server and here: the rules, put together.

`epg compile --check` and tests/contract/test_ir_lint.py run them over pipelines/*.yaml.
Freshness is the compiler's own check (`compiling.stale_files`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from epg.cluster.compile.document import PipelineDocument
from epg.cluster.compile.rules import graph, steps

Rule = Callable[[PipelineDocument], Iterator[str]]
RULES: tuple[Rule, ...] = (
    graph.conditions,
    graph.loops,
    graph.merged_artifacts,
    graph.group_inputs,
    steps.placeholders,
    steps.light_components,
    steps.images,
    steps.resources,
    steps.store_access,
    steps.placement,
    steps.caching,
    steps.retries,
    graph.artifacts,
    graph.parameters,
    steps.security,
    steps.telling,
)


def lint(text: str) -> list[str]:
    """Return all findings in a compiled pipeline, `rule: step: what is wrong`."""
    pipeline = PipelineDocument.parse(text)
    return [f"{rule.__name__}: {finding}" for rule in RULES for finding in rule(pipeline)]


def manifest_findings(text: str, compiled: str) -> list[str]:
    """Return what is wrong with a Kubernetes-native manifest of a compiled pipeline."""
    found = []
    documents = list(yaml.safe_load_all(text))
    kinds = [document["kind"] for document in documents]
    if kinds != ["Pipeline", "PipelineVersion"]:
        return [f"manifest: objects {kinds}, wanted a Pipeline and its PipelineVersion"]
    pipeline, version = documents
    for document in documents:
        name = document["metadata"]["name"]
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            found.append(f"manifest: {name!r} is no name of a Kubernetes object")
        if "namespace" in document["metadata"]:
            found.append(f"manifest: {name!r} names a namespace: `kubectl -n` does")
    if version["spec"]["pipelineName"] != pipeline["metadata"]["name"]:
        found.append("manifest: the version belongs to another pipeline")
    same = PipelineDocument.parse(compiled)
    if version["spec"]["pipelineSpec"] != same.spec:
        found.append("manifest: its pipeline is not the compiled one")
    if version["spec"].get("platformSpec", {}) != same.platform:
        found.append("manifest: its platform settings are not the compiled ones")
    return found


def lint_folder(folder: Path) -> list[str]:
    """Return the findings in all compiled pipelines of a folder and in their manifests."""
    findings = []
    for path in sorted(folder.glob("epg_*.yaml")):
        text = path.read_text(encoding="utf-8")
        findings += [f"{path.name}: {finding}" for finding in lint(text)]
        manifest = folder / "k8s-native" / path.name
        if manifest.is_file():
            found = manifest_findings(manifest.read_text(encoding="utf-8"), text)
            findings += [f"k8s-native/{path.name}: {finding}" for finding in found]
        else:
            findings.append(f"k8s-native/{path.name}: missing (run `epg compile`)")
    return findings

"""A compiled pipeline as the server gets it, read for the rules: its tasks, steps and pods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from epg.runs.stage import Kind
from epg.stages.catalog import kind_of


@dataclass(frozen=True)
class Step:
    """One task that becomes a pod, with its container and its pod's settings."""

    name: str
    task: dict[str, Any]
    component: dict[str, Any]
    container: dict[str, Any]
    pod: dict[str, Any]

    @property
    def kind(self) -> Kind:
        """How the catalog says that it runs."""
        return kind_of(self.name)

    @property
    def variables(self) -> dict[str, str]:
        """The plain environment of the step."""
        return {v["name"]: v.get("value", "") for v in self.container.get("env", [])}

    @property
    def settings(self) -> set[str]:
        """Names of the environment that comes from ConfigMaps which may be absent."""
        maps = [config for config in self.pod.get("configMapAsEnv", []) if config.get("optional")]
        return {pair["envVar"] for config in maps for pair in config["keyToEnv"]}


@dataclass(frozen=True)
class PipelineDocument:
    """A compiled pipeline: its text, the pipeline's document and the platform's."""

    text: str
    spec: dict[str, Any]
    platform: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> PipelineDocument:
        """Read what `epg compile` wrote."""
        documents = [document for document in yaml.safe_load_all(text) if document]
        return cls(text, documents[0], documents[1] if len(documents) > 1 else {})

    def groups(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every group of tasks: the pipeline itself, exit handlers, conditions, loops."""
        yield "root", self.spec["root"]
        for name, component in self.spec["components"].items():
            if "dag" in component:
                yield name, component

    def tasks(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Every task: its group, its name there, and itself."""
        for group, part in self.groups():
            for key, task in part["dag"]["tasks"].items():
                yield group, key, task

    def steps(self) -> Iterator[Step]:
        """Every task that becomes a pod."""
        executors = self.spec["deploymentSpec"]["executors"]
        pods = self.pods()
        for _, key, task in self.tasks():
            component = self.spec["components"][task["componentRef"]["name"]]
            label = component.get("executorLabel")
            if label is not None:
                name = task.get("taskInfo", {}).get("name", key)
                container = executors[label].get("container", {})
                yield Step(name, task, component, container, pods.get(label, {}))

    def pods(self) -> dict[str, dict[str, Any]]:
        """The settings of the steps' pods, by the label of the executor."""
        kubernetes = self.platform.get("platforms", {}).get("kubernetes", {})
        found: dict[str, dict[str, Any]] = kubernetes.get("deploymentSpec", {}).get("executors", {})
        return found

    def parameters(self) -> dict[str, dict[str, Any]]:
        """The pipeline's parameters."""
        found: dict[str, dict[str, Any]] = self.spec["root"]["inputDefinitions"]["parameters"]
        return found

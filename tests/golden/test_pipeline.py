"""The shape of the compiled pipelines in a page: groups, steps, what each uses, how it is run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.toys.command import ROOT


def outline(spec: dict[str, Any]) -> str:
    lines: list[str] = []

    def walk(part: dict[str, Any], indent: str) -> None:
        for task in sorted(part["dag"]["tasks"].values(), key=lambda t: t["taskInfo"]["name"]):
            component = spec["components"][task["componentRef"]["name"]]
            policy = task.get("triggerPolicy", {})
            words = [task["taskInfo"]["name"]]
            words += [f"if {policy['condition']}"] if "condition" in policy else []
            words += [policy["strategy"]] if "strategy" in policy else []
            words += [f"after {', '.join(sorted(task.get('dependentTasks', [])))}"]
            words += ["cached"] if task.get("cachingOptions", {}).get("enableCache") else []
            if "retryPolicy" in task:
                words.append(f"{task['retryPolicy']['maxRetryCount']} retries")
            if "executorLabel" in component:
                words.append(f"image {image(spec, component)}")
            lines.append(indent + "; ".join(w for w in words if w != "after "))
            if "dag" in component:
                walk(component, indent + "    ")

    walk(spec["root"], "")
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    lines += [f"{n}: {p['parameterType']} = {p['defaultValue']}" for n, p in parameters.items()]
    return "\n".join(lines) + "\n"


def image(spec: dict[str, Any], component: dict[str, Any]) -> str:
    executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
    return executor["container"]["image"]


@pytest.mark.parametrize("name", ["epg_full", "epg_evaluate", "epg_sweep"])
def test_outline(golden, name):
    spec = next(yaml.safe_load_all((ROOT / "pipelines" / f"{name}.yaml").read_text()))
    golden(f"{name}.txt", outline(spec))

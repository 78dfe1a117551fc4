"""`epg status`: why a run stands still or failed, in words.

The server and its UI say nothing of it: a step whose image or secret is missing leaves the run
RUNNING for ever, and a failed one has no reason. The pods know, while they exist.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from epg.errors import one_line
from epg.cluster.runs.kfp_api import KfpApi, is_run_id
from epg.cluster.runs.pods import (
    Trouble,
    Unseen,
    connect,
    last_words,
    latest_lines,
    pods_of,
    progress_in,
    step_of,
    trouble_of,
    wait_in,
)
from epg.cluster.runs.situation import Situation, Task
from epg.cluster.runs.workflow import lost_steps, refused_steps
from epg.text import printable

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

NAMESPACE = "kubeflow"
_INNER = re.compile(
    r"\(\d+\)$|-driver$|^(root|executor|driver)$|^(exit-handler|condition|condition-branches|"
    r"for-loop)-\d+$"
)
#: How far a step is, in the words of the server and of pods.
_ORDER = {"PENDING": 0, "RUNNING": 1, "SUCCEEDED": 2, "FAILED": 2}
#: Which state of a loop's turns is shown where the server alone is asked, which does not number them.
_TELLING = {"FAILED": 3, "RUNNING": 2, "PENDING": 1}
_TURN = re.compile(r"(.+) \d+")


def status(
    name: str,
    *,
    endpoint: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    token_file: str | None,
) -> int:
    """Print the situation of a run; return 0 while nothing is wrong, else 1."""
    api = KfpApi.open(endpoint, token_file)
    found = explain(api, name, namespace, kubeconfig)
    for line in found.lines():
        sys.stdout.write(f"{printable(line)}\n")
    return found.exit_code


def explain(
    api: KfpApi,
    name: str,
    namespace: str | None = None,
    kubeconfig: str | None = None,
    *,
    logs: bool = True,
) -> Situation:
    """Gather what server and pods say of a run.

    Args:
        api: the server.
        name: id or display name.
        namespace: where the pods are; default: the experiment's, else `kubeflow`.
        kubeconfig: file with the way to the cluster; default: the usual places.
        logs: read the logs of failed steps, too.
    """
    by_name = not is_run_id(name)
    run = api.run(name, namespace if by_name and _multi_user(api, namespace) else None)
    names = task_names(run)
    state = str(run.get("state") or "PENDING").upper()
    run_id = str(run["run_id"])
    unseen: list[str] = []
    troubles: list[Trouble] = []
    going: list[str] = []
    tasks = list(_tasks(run, names))
    place = namespace or api.namespace_of(run) or NAMESPACE
    try:
        core = connect(kubeconfig)
        pods = pods_of(core, run_id, place)
    except Unseen as error:
        if state != "SUCCEEDED":
            unseen.append(f"the run's pods, which know why a step does not start: {error}")
    else:
        tasks = _seen_in_pods(core, tasks, pods, names)
        if state != "SUCCEEDED":
            troubles = list(_troubles(core, pods, names, logs))
            troubles += [Trouble(t.name, "", t.waits) for t in tasks if t.waits]
            finder = lost_steps if state == "FAILED" else refused_steps
            if state != "FAILED" or not troubles:
                troubles += _remembered(finder, core, run_id, place, names)
            going = _at_work(pods, names, troubles)
            unseen.extend(_missing(run_id, state, place, pods, bool(troubles)))
    return Situation(
        run_id=run_id,
        display_name=str(run.get("display_name", run_id)),
        state=state,
        link=api.link(run_id),
        error=_error(run),
        tasks=tasks,
        troubles=troubles,
        unseen=unseen,
        going=going,
    )


def _multi_user(api: KfpApi, namespace: str | None) -> bool:
    """Whether a namespace may be asked for; a server for one user refuses one."""
    return namespace is not None and api.server().multi_user


def task_names(run: Mapping[str, Any]) -> dict[str, str]:
    """Map the tasks of a run's pipeline to the names that the UI shows."""
    spec = run.get("pipeline_spec") or {}
    spec = spec.get("pipeline_spec") or spec
    names = {}
    for part in (spec.get("root") or {}, *(spec.get("components") or {}).values()):
        for key, task in ((part.get("dag") or {}).get("tasks") or {}).items():
            names[key] = str((task.get("taskInfo") or {}).get("name") or key)
    return names


def _tasks(run: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Task]:
    """Yield the steps in the order in which they began, without Argo's inner nodes."""
    details = (run.get("run_details") or {}).get("task_details") or []
    shown: dict[str, Task] = {}
    groups = {key for key in names if _INNER.search(key)}
    for found in sorted(details, key=lambda one: str(one.get("start_time") or "~")):
        key = str(found.get("display_name") or "")
        if not key or _INNER.search(key) or key in groups or key == run.get("display_name"):
            continue
        if names and key not in names:
            continue  # the workflow itself, and nodes of Argo's own
        state = str(found.get("state") or "PENDING").upper()
        task = Task(names.get(key, key), state, _error(found))
        before = _TELLING.get(shown.setdefault(task.name, task).state, 0)
        if _TELLING.get(state, 0) > before:
            shown[task.name] = task
    yield from shown.values()


def _seen_in_pods(
    core: CoreV1Api, tasks: list[Task], pods: list[dict[str, Any]], names: Mapping[str, str]
) -> list[Task]:
    """Return the tasks with what the pods know better.

    The server's list stands still as soon as Argo compresses the states of a run's nodes, at
    1 MB of them: the last third of a whole run (seen with 2.17). A step from the cache has no
    pod of its own, so the list is needed all the same.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for pod in sorted(pods, key=_created):  # a later attempt has the last word
        state = str(pod.get("status", {}).get("phase", "")).upper()
        if state in _ORDER and not _is_driver(pod):
            found[step_of(pod, names)] = (state, pod)
    looped = {turn[1] for name in found if (turn := _TURN.fullmatch(name))}
    known = {task.name: task for task in tasks if task.name not in looped}
    for name, (state, pod) in found.items():
        if name not in known or _ORDER.get(known[name].state, 2) < _ORDER[state]:
            known[name] = Task(name, state)
        if known[name].state == state == "RUNNING":
            lines = latest_lines(core, pod)
            known[name] = replace(known[name], progress=progress_in(lines), waits=wait_in(lines))
    return list(known.values())


def _created(pod: dict[str, Any]) -> str:
    return str(pod.get("metadata", {}).get("creationTimestamp", ""))


def _troubles(
    core: CoreV1Api, pods: list[dict[str, Any]], names: dict[str, str], logs: bool
) -> Iterator[Trouble]:
    done = {
        step_of(pod, names)
        for pod in pods
        if pod.get("status", {}).get("phase") in ("Running", "Succeeded") and not _is_driver(pod)
    }
    for pod in sorted(pods, key=_created):
        text, step = trouble_of(pod), step_of(pod, names)
        failed = pod.get("status", {}).get("phase") == "Failed"
        if not text or (failed and step in done):
            continue  # a later attempt goes on
        log = last_words(core, pod) if failed and logs else ""
        told = log.removeprefix("epg: error: ") in text
        turn = _TURN.fullmatch(step)
        itself = turn[1] if turn else step
        text = text.replace(f"failed: {itself}: ", "failed: ")  # the step is said once
        yield Trouble(step, str(pod["metadata"]["name"]), text, "" if told else log)


def _remembered(
    finder: Callable[[CoreV1Api, str, str, Mapping[str, str]], Iterator[Trouble]],
    core: CoreV1Api,
    run_id: str,
    namespace: str,
    names: Mapping[str, str],
) -> list[Trouble]:
    """Return what the run's workflow remembers."""
    try:
        return list(finder(core, run_id, namespace, names))
    except Unseen:  # what is not seen is said by `_missing`
        return []


def _at_work(
    pods: list[dict[str, Any]], names: Mapping[str, str], troubles: list[Trouble]
) -> list[str]:
    """Return the steps that have a running pod, and no trouble."""
    troubled = {trouble.step for trouble in troubles}
    running = {
        step_of(pod, names)
        for pod in pods
        if pod.get("status", {}).get("phase") == "Running" and not _is_driver(pod)
    }
    return sorted(running - troubled)


def _is_driver(pod: dict[str, Any]) -> bool:
    annotations = pod.get("metadata", {}).get("annotations") or {}
    return annotations.get("pipelines.kubeflow.org/runtime-role") == "driver"


def _missing(
    run_id: str, state: str, namespace: str, pods: list[dict[str, Any]], troubled: bool
) -> Iterator[str]:
    if not pods and state in ("FAILED", "CANCELED"):
        yield (
            f"pods of the run in namespace {namespace}: they go an hour after its end; the log of "
            "each step is its artifact executor-logs in the UI (or give --namespace)"
        )
    elif not pods:
        yield f"pods of the run in namespace {namespace} (none yet, or give --namespace)"
    elif state == "FAILED" and not troubled:
        yield "a failed pod: it was deleted, or a driver refused; look at the step in the UI"


def _error(found: Mapping[str, Any]) -> str:
    error = found.get("error")
    text = error.get("message", "") if isinstance(error, dict) else error or ""
    return one_line(text)

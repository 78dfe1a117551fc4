"""What Argo's workflow of a run remembers of pods that are gone."""

from __future__ import annotations

import base64
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from epg.errors import one_line
from epg.documents import parse_object
from epg.cluster.runs.pods import Trouble, call, step_of

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

_MAX_BYTES = 64 * 1024**2
_AWAY = re.compile(r"\(exit code 143\)|pod deleted")
# A pod that the namespace does not let in is none that could be looked at.
_REFUSED = re.compile(r"(?:pods \"[^\"]*\" is forbidden: )(.*)|(exceeded quota.*)|(admission webhook.*)")


def lost_steps(
    core: CoreV1Api, run_id: str, namespace: str, names: Mapping[str, str]
) -> Iterator[Trouble]:
    """Yield the steps that failed, from the states of the workflow's nodes.

    Kubeflow's own API has no reason of a failed step, and a pod that was deleted has none either.

    Raises:
        Unseen: the cluster does not answer or refuses.
    """
    for node in _nodes(core, run_id, namespace):
        message = _message(node)
        if node.get("type") == "Pod" and node.get("phase") in ("Failed", "Error") and message:
            step = step_of(_as_pod(node), names)
            yield Trouble(step, str(node.get("id", "")), _in_words(message))


def refused_steps(
    core: CoreV1Api, run_id: str, namespace: str, names: Mapping[str, str]
) -> Iterator[Trouble]:
    """Yield the steps of a run under way whose pods Kubernetes does not let in, as by a quota.

    Raises:
        Unseen: the cluster does not answer or refuses.
    """
    for node in _nodes(core, run_id, namespace):
        refused = _REFUSED.search(_message(node))
        if refused and node.get("phase") in ("Pending", "Running", "Failed", "Error"):
            text = next(group for group in refused.groups() if group)
            step = step_of(_as_pod(node), names)
            yield Trouble(step, str(node.get("id", "")), _not_let_in(text))


def _nodes(core: CoreV1Api, run_id: str, namespace: str) -> Iterator[dict[str, Any]]:
    from kubernetes.client import CustomObjectsApi

    found = call(
        CustomObjectsApi(core.api_client).list_namespaced_custom_object,
        *("argoproj.io", "v1alpha1", namespace, "workflows"),
        label_selector=f"pipeline/runid={run_id}",
        what=f"workflows of namespace {namespace}",
    )
    for workflow in found.get("items") or []:
        yield from nodes_of(workflow).values()


def _message(node: Mapping[str, Any]) -> str:
    return one_line(node.get("message") or "")


def _not_let_in(said: str) -> str:
    return (
        f"Kubernetes does not let its pod in: {said} (ask for less, or have the namespace's quota "
        "or policy changed; it goes on by itself then, unless the run has failed)"
    )


def nodes_of(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of the nodes; Argo compresses them when a workflow passes 1 MB."""
    status = workflow.get("status") or {}
    packed = status.get("compressedNodes")
    if not packed:
        return status.get("nodes") or {}
    try:
        with gzip.open(io.BytesIO(base64.b64decode(packed))) as stream:
            nodes = parse_object(stream.read(_MAX_BYTES + 1), max_bytes=_MAX_BYTES)
    except (ValueError, OSError, EOFError, zlib.error):
        return {}
    return {name: node for name, node in nodes.items() if isinstance(node, dict)}


def _as_pod(node: Mapping[str, Any]) -> dict[str, Any]:
    annotations = {"workflows.argoproj.io/node-name": str(node.get("name", ""))}
    return {"metadata": {"name": str(node.get("id", "a pod")), "annotations": annotations}}


def _in_words(message: str) -> str:
    if _AWAY.search(message):
        return (
            "its pod was taken away, by a user or with its node, and not started again: submit "
            "the run again under its name to go on"
        )
    if refused := _REFUSED.search(message):
        return _not_let_in(next(group for group in refused.groups() if group))
    return f"failed: {message}"

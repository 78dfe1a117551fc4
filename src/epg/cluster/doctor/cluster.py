"""Kubernetes: what we may do there, the steps' Secret, the nodes with GPUs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from epg.cluster.doctor.check import FAILED, OK, SKIPPED, Check
from epg.cluster.runs.pods import Unseen, call, connect
from epg.errors import UserError

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

_GPU = "nvidia.com/gpu"
_KEYS = ("accesskey", "secretkey")  # pipelines/policy.py gives them to the steps
# What `epg status` needs.
_RIGHTS = (
    ("list", "", "pods", ""),
    ("get", "", "pods", "log"),
    ("list", "argoproj.io", "workflows", ""),
)


def check_cluster(namespace: str, kubeconfig: str | None, secret: str | None) -> Iterator[Check]:
    """Look at rights, the secret and the nodes."""
    names = ("rights", "secret", "GPU nodes")
    try:
        core = connect(kubeconfig)
    except Unseen as error:
        yield from (Check(name, SKIPPED, str(error)) for name in names)
        return
    except UserError as error:
        yield Check("rights", FAILED, str(error))
        return
    rights = _seen("rights", lambda: check_rights(core, namespace))
    yield rights
    if rights.text.endswith(core.api_client.configuration.host):  # nobody answers
        yield from (Check(name, SKIPPED, "no answer, as above") for name in names[1:])
        return
    yield _seen("secret", lambda: check_secret(core, namespace, secret))
    yield _seen("GPU nodes", lambda: check_gpus(core))


def _seen(name: str, function: Callable[[], Check]) -> Check:
    """Make a check of a function; what one may not look at is no fault of the cluster."""
    try:
        return function()
    except Unseen as error:
        refused = "does not allow" in str(error)
        return Check(name, SKIPPED if refused else FAILED, str(error))


def check_rights(core: CoreV1Api, namespace: str) -> Check:
    """Ask Kubernetes what we may do in the runs' namespace."""
    from kubernetes.client import AuthorizationV1Api

    review = AuthorizationV1Api(core.api_client).create_self_subject_access_review
    refused = []
    for verb, group, resource, part in _RIGHTS:
        wanted = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        if part:
            wanted["subresource"] = part
        body = {"spec": {"resourceAttributes": wanted}}
        answer = call(review, body, what="rights")
        if not answer.status.allowed:
            refused.append(f"{verb} {resource}{f'/{part}' if part else ''}")
    if refused:
        text = f"not allowed in {namespace}: {', '.join(refused)}"
        return Check(
            "rights", FAILED, f"{text}; ask for a RoleBinding to the ClusterRole view or edit"
        )
    return Check("rights", OK, f"may read pods, logs and workflows in {namespace}")


def check_secret(core: CoreV1Api, namespace: str, name: str | None) -> Check:
    """See that the steps' credentials are there; their values are not looked at."""
    name = name or secret_of_pipeline()
    if not name:
        return Check("secret", SKIPPED, "give --secret NAME, the one that the steps take")
    try:
        found = call(core.read_namespaced_secret, name, namespace, what=f"secret {name}")
    except Unseen as error:
        if ": 404" not in str(error):
            raise
        keys = " ".join(f"--from-literal={key}=..." for key in _KEYS)
        mend = f"kubectl -n {namespace} create secret generic {name} {keys}"
        return Check("secret", FAILED, f"no secret {name} in {namespace}: {mend}")
    missing = [key for key in _KEYS if not (found.data or {}).get(key)]
    if missing:
        return Check("secret", FAILED, f"{name} has no {' and no '.join(missing)}: add it")
    return Check("secret", OK, f"{name} has {', '.join(sorted(found.data))}")


def secret_of_pipeline() -> str | None:
    """Return the default of the pipeline's own parameter for a secret's name."""
    from epg.cluster.local import compiled_pipeline
    from epg.cluster.runs.parameters import read_pipeline

    try:
        parameters = read_pipeline(compiled_pipeline()).parameters
    except UserError:
        return None
    names = [one.default for key, one in parameters.items() if re.search("secret|credentials", key)]
    return next((str(name) for name in names if name), None)


def check_gpus(core: CoreV1Api) -> Check:
    """Count the GPUs that pods can ask for."""
    nodes = call(core.list_node, what="nodes").items
    counts = {
        node.metadata.name: int((node.status.allocatable or {}).get(_GPU, "0")) for node in nodes
    }
    if not any(counts.values()):
        return Check(
            "GPU nodes",
            SKIPPED,
            f"none of {len(nodes)} nodes offers {_GPU}: digits and smoke need none; for others "
            "install NVIDIA's device plugin",
        )
    return Check(
        "GPU nodes", OK, ", ".join(f"{name}: {n}" for name, n in sorted(counts.items()) if n)
    )

"""What the pods of a run tell: the only place where Kubernetes says why a step does not start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epg.errors import UserError, one_line

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

_SECONDS = (5.0, 20.0)  # connect, read
_STUCK = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}
_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_TAIL = 400  # lines of a log
#: Nodes between the steps: of each task, and of each turn of a loop.
_ARGO_S_OWN = ("root", "executor", "driver", "iteration", "iteration-iterations", "iteration-item", "")
# Lines of the launcher, of Argo and of KFP's executor, which say nothing of the reason.
_NOISE = re.compile(
    r"^[IWEF]\d{4} \d\d:|^time=\S|^\[KFP Executor|^Error: exit status|^exit status \d|"
    r"^\d{4}[-/]\d\d[-/]\d\d[T ][\d:.]+Z? (INFO|DEBUG)|failed to execute component|"
    r"^Traceback \(most recent|^\s*File \"|^\s*[\^~]+\s*$"
)
_PROGRESS = re.compile(r"[\w-]+: ((\d+)/(\d+) \w+.*)$")  # telemetry/progress.py
_OURS = re.compile(r"epg: error: .*")
_WAITS = re.compile(r"waiting for S3 at .*")  # store/s3/http.py
# What a driver or a launcher says in Kubernetes' format before it gives up.
_FATAL = re.compile(r"[EF]\d{4} [\d:.]+\s+\d+ [\w./-]+:\d+\] (?!failed to execute component: exit)(.*)")


class Unseen(UserError):  # noqa: N818 - says what it is
    """The pods cannot be read; the message says why."""


@dataclass(frozen=True)
class Trouble:
    """One pod that does not go on, in words."""

    step: str
    pod: str
    text: str
    log: str = ""

    @property
    def line(self) -> str:
        """The trouble without its log."""
        return f"{self.step}: {self.text}"


def connect(kubeconfig: str | None) -> CoreV1Api:
    """Return a client for core/v1, by kubeconfig or from inside a pod.

    Raises:
        Unseen: there is neither, or kubernetes is not installed.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise Unseen(
            "the package `kubernetes` is not installed (pip install 'epg[kfp]')"
        ) from error
    try:
        config.load_kube_config(config_file=kubeconfig)
    except (config.ConfigException, OSError, ValueError, TypeError) as error:
        if kubeconfig:
            raise UserError(f"kubeconfig {kubeconfig}: {one_line(error)}") from error
        try:
            config.load_incluster_config()
        except config.ConfigException as outside:
            raise Unseen(
                "there is no kubeconfig: give --kubeconfig FILE or set KUBECONFIG"
            ) from outside
    settings = client.Configuration.get_default_copy()
    settings.retries = False
    return client.CoreV1Api(client.ApiClient(settings))


def pods_of(core: CoreV1Api, run_id: str, namespace: str) -> list[dict[str, Any]]:
    """Return the pods of a run as plain dictionaries, in the API's own spelling.

    Raises:
        Unseen: the cluster does not answer or refuses.
    """
    found = call(
        core.list_namespaced_pod,
        namespace,
        label_selector=f"pipeline/runid={run_id}",
        what=f"pods of namespace {namespace}",
    )
    return list(core.api_client.sanitize_for_serialization(found)["items"])


def call(function: Any, *arguments: Any, what: str, **options: Any) -> Any:
    """Call the Kubernetes client; whatever fails is one line.

    Raises:
        Unseen: no answer, or a refusal.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return function(*arguments, _request_timeout=_SECONDS, **options)
    except ApiException as error:
        if error.status in (401, 403):
            raise Unseen(f"{what}: Kubernetes does not allow it ({error.status})") from error
        raise Unseen(f"{what}: {error.status} {error.reason}") from error
    except HTTPError as error:
        host = function.__self__.api_client.configuration.host
        raise Unseen(f"{what}: no answer from Kubernetes at {host}") from error


def step_of(pod: dict[str, Any], names: Mapping[str, str]) -> str:
    """Return the name of a pod's step: our label, else Argo's path with the pipeline's names.

    A step within a loop has its number behind it: `shard-part 2`.
    """
    metadata = pod.get("metadata", {})
    path = (metadata.get("annotations") or {}).get("workflows.argoproj.io/node-name", "")
    turn = re.search(r"\((\d+):", path)
    number = f" {int(turn[1]) + 1}" if turn else ""
    if stage := (metadata.get("labels") or {}).get("epg/stage"):
        return f"{stage}{number}"
    parts = [re.sub(r"(\(\d+(:[^)]*)?\))+$", "", part).removesuffix("-driver") for part in path.split(".")]
    parts = [part for part in parts[1:] if part not in _ARGO_S_OWN]
    if not parts:
        return str(metadata.get("name", "a pod"))
    return f"{names.get(parts[-1], parts[-1])}{number}"


def trouble_of(pod: dict[str, Any]) -> str:
    """Say in words why a pod does not go on or failed; "" where all is well."""
    status = pod.get("status", {})
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    phase = status.get("phase")
    if phase == "Failed":
        return _failed(status, containers)
    if phase == "Pending" or any("waiting" in c.get("state", {}) for c in containers):
        return _waiting(pod, status, containers)
    return ""


def _waiting(pod: dict[str, Any], status: dict[str, Any], containers: list[dict[str, Any]]) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            said = one_line(condition.get("message", ""))
            text = f"no node can take it: {said}"
            if "Insufficient" in said or "affinity" in said or "taint" in said:
                text += " (ask for less, choose other nodes, or add one that has what is missing)"
            return text
    for container in containers:
        waiting = container.get("state", {}).get("waiting") or {}
        reason, said = waiting.get("reason", ""), one_line(waiting.get("message", ""))
        if reason not in _STUCK:
            continue
        if reason in _IMAGE:
            image = container.get("image") or _image(pod, container.get("name", ""))
            return (
                f"{reason}: the image {image} cannot be pulled{_after(said)}; check name and tag, "
                "or give the namespace the registry's credentials"
            )
        return f"{reason}: {said or 'without a message'}{_advice(said, pod)}"
    return ""


def _failed(status: dict[str, Any], containers: list[dict[str, Any]]) -> str:
    reason, said = status.get("reason") or "", one_line(status.get("message") or "")
    if reason == "DeadlineExceeded":
        return f"DeadlineExceeded: it ran past its time limit{_after(said)}; submit the run again \
under its name to go on, or raise the limit"
    if reason in ("Evicted", "Preempting", "NodeLost", "Terminated", "NodeShutdown"):
        return f"{reason}: the node took the pod away{_after(said)}; it resumes when started again"
    ended = [
        (container.get("name"), found)
        for container in containers
        if (found := container.get("state", {}).get("terminated")) and found.get("exitCode")
    ]
    ended.sort(key=lambda item: item[0] != "main")
    for _, found in ended:
        if found.get("reason") == "OOMKilled" or found.get("exitCode") == 137:
            return "OOMKilled: it needed more memory than its limit; raise memory=... and submit \
the run again under its name"
        told = one_line(found.get("message") or "")
        if told and not re.fullmatch(r"Error \(exit code \d+\)", told):
            return f"failed: {told}"
        if found.get("exitCode") == 143:
            return "terminated from outside (SIGTERM): by a user, or with its node"
        return f"failed with exit code {found.get('exitCode')}{_after(said)}"
    return f"failed{f': {reason}' if reason else ''}{_after(said)}"


def _advice(said: str, pod: dict[str, Any]) -> str:
    namespace = pod.get("metadata", {}).get("namespace", "NAMESPACE")
    if missing := re.search(r"(secret|configmap) \"([^\"]+)\" not found", said):
        return (
            f"; make it: kubectl -n {namespace} create {missing[1]} "
            f"{'generic ' if missing[1] == 'secret' else ''}{missing[2]} --from-literal=KEY=VALUE"
        )
    if missing := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", said):
        return f"; {missing[2]} {missing[3]} is there, its key {missing[1]} is not: add it"
    if "runAsNonRoot" in said or "non-root" in said:
        return "; the image's user must be a number other than 0, or the task must set one"
    return ""


@dataclass(frozen=True)
class Progress:
    """How far a running step says that it is."""

    done: int
    total: int
    text: str  # as the step tells it: `4438/12000 steps loss=1.966`


def latest_lines(core: CoreV1Api, pod: dict[str, Any]) -> list[str]:
    """Return the last lines of a running pod's log; none where it cannot be read."""
    try:
        return [line.strip() for line in _tail(core, pod, 20).splitlines() if line.strip()]
    except Unseen:
        return []


def progress_in(lines: list[str]) -> Progress | None:
    """Return the last progress that the lines of a log tell; None where there is none."""
    for line in reversed(lines):
        if found := _PROGRESS.match(line):
            return Progress(int(found[2]), int(found[3]), found[1])
    return None


def wait_in(lines: list[str]) -> str:
    """Return what the last line of a log says that its step waits for; "" where it does not."""
    found = _WAITS.search(lines[-1]) if lines else None
    return found[0] if found else ""


def last_words(core: CoreV1Api, pod: dict[str, Any]) -> str:
    """Return the last meaningful line of a pod's main container."""
    try:
        return meaningful_line(_tail(core, pod, _TAIL))
    except Unseen as error:
        return f"(cannot read the {error})"


def _tail(core: CoreV1Api, pod: dict[str, Any], lines: int) -> str:
    metadata = pod["metadata"]
    answer = call(
        core.read_namespaced_pod_log,
        metadata["name"],
        metadata["namespace"],
        container="main",
        tail_lines=lines,
        _preload_content=False,
        what=f"log of {metadata['name']}",
    )
    return str(answer.data.decode("utf-8", errors="replace"))


def meaningful_line(log: str) -> str:
    """Return the line of a log that says what happened: our own error, else the last real one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if ours := _OURS.search(line):
            return ours[0]
    for line in reversed(lines):
        if re.match(r"([a-z_]+\.)*[A-Z]\w*(Error|Exception|Interrupt|Exit)(:|$)", line):
            return line
    for line in reversed(lines):
        if (fatal := _FATAL.match(line)) and fatal[1]:
            return fatal[1]
    return next((line for line in reversed(lines) if not _NOISE.search(line)), "")


def _image(pod: dict[str, Any], container: str) -> str:
    spec = pod.get("spec", {})
    for one in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if one.get("name") == container:
            return str(one.get("image", ""))
    return ""


def _after(said: str) -> str:
    return f" ({said})" if said else ""

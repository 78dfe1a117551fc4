"""Rules for each step of a pipeline: its container, its pod, its caching and its retries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from epg.cluster.compile.document import PipelineDocument
from epg.runs.stage import Kind

#: Kinds of stages whose results Kubeflow may reuse; training resumes by itself, and decisions and
#: effects are never replayed.
CACHED: tuple[Kind, ...] = ("preparing", "computing", "judging")
MAX_BODY = 4_000  # characters of a component's source
MAX_SPEC = 200_000  # characters of a file; the server refuses about 1.5 MiB of workflow
_SCRAPE = ("prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path")
# Volumes that Pod Security *restricted* allows and ours may use.
_VOLUMES = {"emptyDirMounts", "pvcMount", "secretAsVolume", "configMapAsVolume"}
_SETTINGS = {
    "activeDeadlineSeconds",
    "configMapAsEnv",
    "fieldPathAsEnv",
    "imagePullPolicy",
    "imagePullSecret",
    "nodeAffinity",
    "nodeSelector",
    "podMetadata",
    "secretAsEnv",
    "securityContext",
    "tolerations",
}


def placeholders(pipeline: PipelineDocument) -> Iterator[str]:
    """A pod's placeholders are inputs of its step, and none is of a kind that local runs lack."""
    for step in pipeline.steps():
        text = json.dumps(step.container)
        for wanted in re.findall(r"\$\.inputs\.parameters\['([^']+)'\]", text):
            if wanted not in step.task.get("inputs", {}).get("parameters", {}):
                yield f"{step.name}: placeholder {wanted!r} is no input"
        if "{{$" in json.dumps(list(step.variables.values())):
            yield f"{step.name}: a placeholder in the environment, where no server resolves it"
    # Artifact URIs and the executor's own input and output are part of every light component.
    for name in (
        "pipeline_job_resource_name",
        "pipeline_job_create_time",
        "pipeline_job_schedule_time",
        "workspace_path",
    ):
        if f"{{{{$.{name}" in pipeline.text:
            yield f"placeholder {name}: local runs do not have it"


def light_components(pipeline: PipelineDocument) -> Iterator[str]:
    """Only lightweight Python components, without pip, short; the whole file is short."""
    if len(pipeline.text) > MAX_SPEC:
        yield f"{len(pipeline.text)} characters, more than {MAX_SPEC}"
    for step in pipeline.steps():
        command = step.container.get("command", [])
        if command[:2] != ["sh", "-ec"] or "kfp.dsl.executor_main" not in command[2]:
            yield f"{step.name}: no lightweight Python component"
            continue
        if "pip install" in " ".join(command) or "--no-deps" in " ".join(command):
            yield f"{step.name}: installs packages at run time"
        if len(command[3]) > MAX_BODY:
            yield f"{step.name}: its source has {len(command[3])} characters, over {MAX_BODY}"


def images(pipeline: PipelineDocument) -> Iterator[str]:
    """Each step's image is a parameter, whose default has a digest or a tag, never `latest`."""
    for step in pipeline.steps():
        image = step.container.get("image", "")
        found = re.fullmatch(
            r"\{\{\$\.inputs\.parameters\['(?:pipelinechannel--)?(\w+)'\]\}\}", image
        )
        if found is None or found[1] not in pipeline.parameters():
            yield f"{step.name}: image {image!r} is not a parameter"
            continue
        default = str(pipeline.parameters()[found[1]].get("defaultValue", ""))
        name = default.rpartition("/")[2]
        if "@sha256:" not in default and (":" not in name or name.endswith(":latest")):
            yield f"{found[1]}: default {default!r} has neither digest nor tag of a version"
        if step.pod.get("imagePullPolicy") not in ("IfNotPresent", "Never"):
            yield f"{step.name}: no image pull policy, or one that pulls again every time"


def resources(pipeline: PipelineDocument) -> Iterator[str]:
    """Each step has a time limit and memory; on an accelerator type, count, `/dev/shm`, retry."""
    for step in pipeline.steps():
        sizes = step.container.get("resources", {})
        if not int(step.pod.get("activeDeadlineSeconds", 0)):
            yield f"{step.name}: no time limit"
        if not sizes.get("resourceMemoryLimit") or not sizes.get("resourceCpuLimit"):
            yield f"{step.name}: no limit of CPU or memory"
        accelerator = sizes.get("accelerator", {})
        if bool(accelerator.get("resourceType")) != bool(accelerator.get("resourceCount")):
            yield f"{step.name}: an accelerator's type without its count, or the reverse"
        if step.kind in ("preparing", "deciding"):  # no torch, no processes that load data
            continue
        mounts = {mount["mountPath"]: mount for mount in step.pod.get("emptyDirMounts", [])}
        if mounts.get("/dev/shm", {}).get("medium") != "Memory":  # noqa: S108 - a mount
            yield f"{step.name}: computes without a memory volume at /dev/shm"


def store_access(pipeline: PipelineDocument) -> Iterator[str]:
    """Each step gets the store's keys from the Secret that a parameter names, optional."""
    for step in pipeline.steps():
        secrets = step.pod.get("secretAsEnv", [])
        names = {pair["envVar"] for secret in secrets for pair in secret["keyToEnv"]}
        if not {"EPG_S3_ACCESS_KEY", "EPG_S3_SECRET_KEY"} <= names:
            yield f"{step.name}: no credentials of the store from a Secret"
        for secret in secrets:
            if not secret.get("optional"):
                yield f"{step.name}: a Secret that must exist: without it the run hangs for ever"
            if "componentInputParameter" not in secret.get("secretNameParameter", {}):
                yield f"{step.name}: the Secret's name is not a parameter"
        if "EPG_S3_ENDPOINT" not in step.settings:
            yield f"{step.name}: no address of the store from an optional ConfigMap"


def placement(pipeline: PipelineDocument) -> Iterator[str]:
    """Each step's node selector and tolerations are parameters."""
    for step in pipeline.steps():
        selector = step.pod.get("nodeSelector", {}).get("nodeSelectorJson", {})
        if "componentInputParameter" not in selector:
            yield f"{step.name}: its node selector is not a parameter"
        tolerations = [t.get("tolerationJson", {}) for t in step.pod.get("tolerations", [])]
        if not any("componentInputParameter" in toleration for toleration in tolerations):
            yield f"{step.name}: its tolerations are not a parameter"


def caching(pipeline: PipelineDocument) -> Iterator[str]:
    """Each step states its caching, by the table: what is deterministic is reused."""
    for step in pipeline.steps():
        options = step.task.get("cachingOptions")
        if options is None:
            yield f"{step.name}: does not state its caching"
        elif options.get("enableCache", False) != (step.kind in CACHED):
            yield f"{step.name}: caching must be {'on' if step.kind in CACHED else 'off'}"


def retries(pipeline: PipelineDocument) -> Iterator[str]:
    """Steps that go on where they stopped are tried again; decisions and effects are not."""
    for step in pipeline.steps():
        if ("retryPolicy" in step.task) == (step.kind == "deciding"):
            does = "is" if step.kind == "deciding" else "is not"
            yield f"{step.name}: {does} tried again"


def security(pipeline: PipelineDocument) -> Iterator[str]:
    """Each pod runs as a numbered user without rights, with nothing that *restricted* refuses."""
    for step in pipeline.steps():
        context = step.pod.get("securityContext", {})
        if not int(context.get("runAsUser", 0)) or context.get("runAsNonRoot") is not True:
            yield f"{step.name}: may run as root: a restricted namespace refuses it"
        if str(context.get("runAsGroup")) != "0":
            yield f"{step.name}: runs in another group than 0, which owns the image's folders"
        for setting in step.pod:
            if setting not in _VOLUMES | _SETTINGS:
                yield f"{step.name}: the pod's setting {setting!r} is not known to be allowed"


def telling(pipeline: PipelineDocument) -> Iterator[str]:
    """Each pod is labelled with its stage and can push; a training step can be scraped."""
    for step in pipeline.steps():
        metadata = step.pod.get("podMetadata", {})
        if metadata.get("labels", {}).get("epg/stage") != step.name:
            yield f"{step.name}: no label epg/stage with its name"
        if "EPG_PUSHGATEWAY" not in step.settings:
            yield f"{step.name}: no Pushgateway from an optional ConfigMap"
        if step.kind != "training" or "EPG_REUSE_ONLY" in step.variables:
            continue
        if not set(_SCRAPE) <= set(metadata.get("annotations", {})):
            yield f"{step.name}: trains without annotations for Prometheus"
        if step.variables.get("EPG_METRICS_ADDRESS") != "0.0.0.0":  # noqa: S104 - in a pod
            yield f"{step.name}: its metrics cannot be reached from outside the pod"

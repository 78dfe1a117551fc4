"""What a cluster adds to a step, in one place: functions from a task to the same task.

The local runner ignores the platform's part of a compiled file, images, resources and display
names; what is set here as environment it leaves out (`src/epg/cluster/local.py`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

from kfp import kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineChannel

from components import TOOLS_IMAGE, TRAIN_IMAGE
from epg.stages.catalog import kind_of

#: Secret keys -> environment; the names that Kubeflow's own secret of MinIO has.
CREDENTIALS = {"accesskey": "EPG_S3_ACCESS_KEY", "secretkey": "EPG_S3_SECRET_KEY"}
#: ConfigMap keys -> environment. A pod's environment takes no pipeline parameters (kfp 2.17).
SITE_SETTINGS = {
    "endpoint": "EPG_S3_ENDPOINT",
    "region": "EPG_S3_REGION",
    "secure": "EPG_S3_SECURE",
    "pushgateway": "EPG_PUSHGATEWAY",
}
SITE_CONFIG_MAP = "epg-site"
STORE_DEADLINE = "120"  # seconds of retries: a pod waits for a store that restarts
METRICS_PORT = "9464"
SHARED_MEMORY = "1Gi"  # of /dev/shm; counts against the memory limit
USER, GROUP = 1000, 0  # the images work under any uid of group 0

_HOUR = 3600
DECIDING_LIMIT = _HOUR
COMPUTING_LIMIT = 24 * _HOUR
TRAINING_LIMIT = 14 * 24 * _HOUR
_RETRIES = 2
_FIRST_PAUSE = "30s"


@dataclass(frozen=True)
class Site:
    """Where and how the steps of a pipeline run: its parameters, and the kinds of steps.

    Attributes:
        image: container image of the steps that compute (torch).
        tools_image: container image of the others (no torch), such as shard, gate and report.
        cpu_request: CPU that a node must have free for a computing step, at most cpu.
        cpu: CPU limit of a computing step, as in 2000m.
        memory: memory of a computing step, request and limit, as in 8Gi.
        accelerator_type: resource name of the accelerator of the computing steps.
        accelerator_count: accelerators of a computing step, as text; 0 is none.
        node_selector: labels of the nodes that may run the steps, as in {"pool": "gpu"}.
        tolerations: list of Kubernetes tolerations of the steps, for tainted nodes.
        store_credentials: name of the Secret in the run's namespace whose keys accesskey and
            secretkey open the object store. The ConfigMap epg-site has the addresses: endpoint,
            region and secure of the store, pushgateway. Both may be absent.
    """

    image: str = TRAIN_IMAGE
    tools_image: str = TOOLS_IMAGE
    cpu_request: str = "500m"
    cpu: str = "2000m"
    memory: str = "8Gi"
    accelerator_type: str = "nvidia.com/gpu"
    accelerator_count: str = "0"
    node_selector: dict = field(default_factory=dict)
    tolerations: list = field(default_factory=list)
    store_credentials: str = "epg-s3"

    def runs(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a step as the catalog says that its stage runs."""
        kinds = {
            "preparing": self.preparing,
            "computing": self.computing,
            "training": self.training,
            "judging": self.judging,
            "deciding": self.deciding,
        }
        return kinds[kind_of(stage)](task, stage)

    def preparing(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a step that computes on CPUs without torch, with a result worth keeping."""
        task = modest(self._lasting(task, stage, self.tools_image))
        return cached(limited_to(task, COMPUTING_LIMIT))

    def computing(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a step that computes for hours on CPUs, with a result worth keeping."""
        return cached(self._working(task, stage, self.image))

    def judging(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a step that computes on an accelerator, with a result worth keeping."""
        task = self.computing(task, stage)
        return accelerated(task, self.accelerator_type, self.accelerator_count)

    def training(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a step that trains: for days, watched, resuming from its checkpoints."""
        task = limited_to(self.computing(task, stage), TRAINING_LIMIT)
        task = accelerated(task, self.accelerator_type, self.accelerator_count)
        return uncached(scraped(task))

    def reusing(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a training step that only hands on what an earlier run has trained."""
        task = self.computing(task, stage)
        return uncached(task.set_env_variable("EPG_REUSE_ONLY", "1"))

    def deciding(self, task: PipelineTask, stage: str) -> PipelineTask:
        """Set up a short step without torch: a decision or an effect."""
        task = runs_in(self._placed(task, stage), self.tools_image)
        return uncached(limited_to(small(task), DECIDING_LIMIT))

    def _working(self, task: PipelineTask, stage: str, image: PipelineChannel) -> PipelineTask:
        task = limited_to(shared_memory(self._lasting(task, stage, image)), COMPUTING_LIMIT)
        return sized(task, self.cpu_request, self.cpu, self.memory)

    def _lasting(self, task: PipelineTask, stage: str, image: PipelineChannel) -> PipelineTask:
        return retried(runs_in(self._placed(task, stage), image))

    def _placed(self, task: PipelineTask, stage: str) -> PipelineTask:
        task = part_of_its_run(pulled(as_nobody(named(task, stage))))
        task = with_addresses(with_store(task, self.store_credentials))
        return on_nodes(task, self.node_selector, self.tolerations)


def on_a_site(pipeline: Callable[..., None]) -> Callable[..., None]:
    """Put the fields of `Site` into a pipeline's parameters, in the place of its `site`.

    kfp reads names, types, defaults and descriptions off a function's signature and docstring: each
    pipeline would have to write all of them down. The docstring ends with its `Args`.
    """
    types = get_type_hints(Site)
    of_site = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=each.default if each.default_factory is MISSING else each.default_factory(),
            annotation=types[each.name],
        )
        for each in fields(Site)
    ]
    signature = inspect.signature(pipeline)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += of_site if parameter.name == "site" else [parameter]

    @functools.wraps(pipeline)
    def with_its_parameters(*values: Any) -> None:
        given = dict(zip((parameter.name for parameter in parameters), values, strict=True))
        site = Site(**{name: given.pop(name) for name in types})
        pipeline(**given, site=site)

    described = inspect.getdoc(Site).partition("Attributes:\n")[2]  # type: ignore[union-attr]
    with_its_parameters.__doc__ = f"{inspect.getdoc(pipeline)}\n{described}"
    with_its_parameters.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_its_parameters


def named(task: PipelineTask, stage: str) -> PipelineTask:
    """Show the step by its stage's name, in the Kubeflow UI and as a label of its pod."""
    return kubernetes.add_pod_label(task.set_display_name(stage), "epg/stage", stage)


def runs_in(task: PipelineTask, image: PipelineChannel) -> PipelineTask:
    """Take the container image from a pipeline parameter: a new tag needs no recompiling."""
    return task.set_container_image(image)


def pulled(task: PipelineTask) -> PipelineTask:
    """Pull an image once: tags are of a version or a commit, never `latest`."""
    return kubernetes.set_image_pull_policy(task, "IfNotPresent")


def as_nobody(task: PipelineTask) -> PipelineTask:
    """Run as a user without rights: a namespace that enforces *restricted* asks for it.

    Kubeflow sets the rest itself: no escalation, no capabilities, seccomp.
    """
    return kubernetes.set_security_context(
        task, run_as_user=USER, run_as_group=GROUP, run_as_non_root=True
    )


def part_of_its_run(task: PipelineTask) -> PipelineTask:
    """Tell the step its pipeline run's id: another run of the same name is told from it."""
    label = "metadata.labels['pipeline/runid']"
    return kubernetes.use_field_path_as_env(task, "EPG_PIPELINE_RUN", label)


def with_store(task: PipelineTask, credentials: PipelineChannel) -> PipelineTask:
    """Give the step the keys of the object store from a Secret.

    It is optional: without it a folder or anonymous access works, and our own message says what
    is missing, where a pod without its Secret would wait for ever.
    """
    kubernetes.use_secret_as_env(task, credentials, CREDENTIALS, optional=True)
    return task.set_env_variable("EPG_S3_DEADLINE", STORE_DEADLINE)


def with_addresses(task: PipelineTask) -> PipelineTask:
    """Tell the step where store and Pushgateway are, from the site's ConfigMap or a part of it."""
    return kubernetes.use_config_map_as_env(task, SITE_CONFIG_MAP, SITE_SETTINGS, optional=True)


def on_nodes(
    task: PipelineTask, selector: PipelineChannel, tolerations: PipelineChannel
) -> PipelineTask:
    """Choose nodes by labels (dict) and bear their taints (list of tolerations)."""
    kubernetes.add_node_selector_json(task, selector)
    return kubernetes.add_toleration_json(task, tolerations)


def shared_memory(task: PipelineTask) -> PipelineTask:
    """Mount a bigger `/dev/shm` than the runtime's 64 MiB, for data-loading processes."""
    return kubernetes.empty_dir_mount(
        task,
        "shm",
        "/dev/shm",  # noqa: S108 - a mount, not a file of ours
        medium="Memory",
        size_limit=SHARED_MEMORY,
    )


def limited_to(task: PipelineTask, seconds: int) -> PipelineTask:
    """End a step that hangs; the clock starts with its pod."""
    return kubernetes.set_timeout(task, seconds)


def scraped(task: PipelineTask) -> PipelineTask:
    """Let Prometheus read the step's metrics while it runs: pods of Kubeflow declare no ports."""
    task.set_env_variable("EPG_METRICS_ADDRESS", "0.0.0.0")  # noqa: S104 - a pod's own address
    kubernetes.add_pod_annotation(task, "prometheus.io/scrape", "true")
    kubernetes.add_pod_annotation(task, "prometheus.io/port", METRICS_PORT)
    return kubernetes.add_pod_annotation(task, "prometheus.io/path", "/metrics")


def cached(task: PipelineTask) -> PipelineTask:
    """Reuse an earlier result: for what depends on nothing but its arguments."""
    return task.set_caching_options(enable_caching=True)


def uncached(task: PipelineTask) -> PipelineTask:
    """Run every time: training resumes by itself, decisions and effects are never replayed."""
    return task.set_caching_options(enable_caching=False)


def retried(task: PipelineTask) -> PipelineTask:
    """Start a failed step again; it goes on from what it left in the store.

    Kubeflow 2.17 as installed by default ignores this (docs/architecture.md): steps retry
    transient errors inside, and a run submitted again under its name resumes.
    """
    return task.set_retry(_RETRIES, backoff_duration=_FIRST_PAUSE, backoff_factor=2.0)


def sized(
    task: PipelineTask, request: PipelineChannel, cpu: PipelineChannel, memory: PipelineChannel
) -> PipelineTask:
    """Ask for CPU, and limit CPU (`2000m`) and memory (`8Gi`, asked for in full)."""
    task.set_cpu_request(request).set_cpu_limit(cpu).set_memory_limit(memory)
    return _consuming(task, request, cpu, memory)


def modest(task: PipelineTask) -> PipelineTask:
    """Size a step that decodes images or counts, whatever memory a training asks for."""
    task.set_cpu_request("500m").set_cpu_limit("4000m")
    return task.set_memory_request("1Gi").set_memory_limit("4Gi")


def small(task: PipelineTask) -> PipelineTask:
    """Size a step that reads and writes files: fits beside everything, also under a quota."""
    task.set_cpu_request("100m").set_cpu_limit("1000m")
    return task.set_memory_request("256Mi").set_memory_limit("2Gi")


def accelerated(task: PipelineTask, kind: PipelineChannel, count: PipelineChannel) -> PipelineTask:
    """Ask for accelerators; `count` is text, since a server resolves only text in a pod."""
    return _consuming(task.set_accelerator_type(kind).set_accelerator_limit(count), kind, count)


def _consuming(task: PipelineTask, *parameters: PipelineChannel) -> PipelineTask:
    """Have the groups around a task hand the parameters in.

    kfp 2.17.0 forgets it for resources: a task within an exit handler or a condition would refer
    to an input that its group does not have.
    """
    task.register_pipeline_channels(list(parameters))
    return task

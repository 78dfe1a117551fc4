"""What a cluster adds to a step, in one place: functions from a task to the same task.

The local runner ignores images, resources and display names; caching it leaves off unless asked.
"""

from __future__ import annotations

from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineChannel

_RETRIES = 2
_FIRST_PAUSE = "30s"


def named(task: PipelineTask, name: str) -> PipelineTask:
    """Show the step as `name`, the stage's own name, in the Kubeflow UI."""
    return task.set_display_name(name)


def runs_in(task: PipelineTask, image: PipelineChannel) -> PipelineTask:
    """Take the container image from a pipeline parameter: a new tag needs no recompiling."""
    return task.set_container_image(image)


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


def sized(task: PipelineTask, cpu: PipelineChannel, memory: PipelineChannel) -> PipelineTask:
    """Limit CPU (`2000m`) and memory (`8Gi`), from pipeline parameters."""
    return _consuming(task.set_cpu_limit(cpu).set_memory_limit(memory), cpu, memory)


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

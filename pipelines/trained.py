"""What an existing run has, in a pipeline that trains nothing.

Kubeflow lets nobody name an object of our own bucket as an artifact, so the steps that made the
generator run again and hand their stored results on: seconds each, without an accelerator. Where
the run was not trained, or with other settings, they say so and fail.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kfp.dsl.pipeline_channel import PipelineChannel

from components.finetune.component import finetune
from components.pretrain.component import pretrain
from components.reference_statistics.component import reference_statistics
from components.shard.component import shard
from pipelines.policy import Site


class Trained(NamedTuple):
    """Artifacts of a run whose generator is there."""

    shards: PipelineChannel
    statistics: PipelineChannel
    generator: PipelineChannel


def trained(site: Site, objective: str, common: dict[str, Any]) -> Trained:
    """Place the steps that hand on what a run has.

    Args:
        site: where and how they run.
        objective: which generator: denoising or consistency.
        common: arguments that every step takes.
    """
    shards = site.runs(shard(begin_at="", shard_parts=1, **common), "shard").outputs["shards"]
    statistics = site.runs(
        reference_statistics(shards=shards, **common), "reference-statistics"
    ).outputs["statistics"]
    encoder = site.reusing(pretrain(shards=shards, **common), "pretrain").outputs["encoder"]
    generator = site.reusing(
        finetune(shards=shards, encoder=encoder, objective=objective, **common), "finetune"
    ).outputs["generator"]
    return Trained(shards, statistics, generator)

"""The weights that a training would begin with, for a comparison with none at all."""

from __future__ import annotations

from epg.model.files import save_weights
from epg.model.precision import Precision
from epg.training.builders import BUILDERS
from epg.training.job import Trained, TrainingJob
from epg.training.world import World


def fresh_weights(job: TrainingJob) -> Trained:
    """Write a job's weight files without a step of training."""
    weights = BUILDERS[job.objective](job, World.single(), Precision.full()).weights()
    files = {kind: job.scratch / f"{kind}.safetensors" for kind in weights}
    for kind, tensors in weights.items():
        save_weights(files[kind], tensors, job.headers[kind])
    parameters = {kind: sum(t.numel() for t in weights[kind].values()) for kind in weights}
    return Trained(files, [], parameters)

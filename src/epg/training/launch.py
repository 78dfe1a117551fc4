"""Run a training job: in this process."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from epg.data.reader import ShardReader
from epg.diffusion.seeds import derive_seed
from epg.model.device import prepare_device
from epg.model.files import save_weights
from epg.store import Store, open_store
from epg.store.held import HeldStore
from epg.training.builders import BUILDERS
from epg.training.checkpoints import Checkpoints
from epg.training.job import Trained, TrainingJob
from epg.training.loop import Watch, train
from epg.training.world import World


def launch(job: TrainingJob, watch: Watch) -> Trained:
    """Train to the end, going on from a checkpoint where there is one.

    Args:
        job: the training.
        watch: hears of progress.

    Raises:
        UserError: see `epg.training.loop.train`; weights to start from that do not fit.
        SystemExit: after a signal, once a checkpoint is stored.
    """
    return run_rank(job, World.single(), watch)


def run_rank(job: TrainingJob, world: World, watch: Watch) -> Trained:
    """Do one process's part of a job. The files are written by the first rank."""
    device = prepare_device()
    store = open_store(job.store)
    objective = BUILDERS[job.objective](job, device, world)
    checkpoints = Checkpoints(
        HeldStore(store.sub(f"{job.stage}/checkpoints"), watch.guard),
        job.config,
        job.inputs,
        job.scratch,
        warn=watch.warning,
    )
    series = train(
        objective,
        job.optimizer,
        lambda start: _batches(job, store, world, start, device),
        checkpoints,
        watch,
        world,
    )
    weights = objective.weights()
    files = {kind: job.scratch / f"{kind}.safetensors" for kind in weights}
    if world.rank == 0:
        for kind, tensors in weights.items():
            save_weights(files[kind], tensors, job.headers[kind])
    parameters = {
        kind: sum(t.numel() for t in tensors.values()) for kind, tensors in weights.items()
    }
    return Trained(files, series, parameters)


def _batches(
    job: TrainingJob, store: Store, world: World, start: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless slices of batches on the device; the order depends on (seed, stage, step) alone."""
    reader = ShardReader(store, job.manifest, "train")
    seed = derive_seed(job.recipe.seed, job.stage, "order")
    for batch in reader.batches(job.optimizer.batch_size, seed, start, world.rank, world.size):
        images = torch.from_numpy(batch.images).to(device, non_blocking=True)
        yield images, torch.from_numpy(batch.labels).to(device, non_blocking=True)

"""Run a training job: in this process, or in several that share every batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from epg.data.reader import ShardReader
from epg.diffusion.seeds import derive_seed
from epg.errors import UserError
from epg.model.device import prepare_device
from epg.model.files import save_weights
from epg.model.precision import Precision
from epg.store import Store, open_store
from epg.store.held import HeldStore
from epg.store.local import LocalStore
from epg.training.builders import BUILDERS
from epg.training.checkpoints import Checkpoints
from epg.training.delivery import Delivery
from epg.training.job import Trained, TrainingJob
from epg.training.keeper import Keeper
from epg.training.loop import Watch, train
from epg.training.place import Place, given_place, local_processes
from epg.training.world import World


def launch(job: TrainingJob, watch: Watch) -> Trained:
    """Train to the end, going on from a checkpoint where there is one.

    One process for each GPU of this machine (or `EPG_PROCESSES`) trains its share of every batch;
    under `torchrun` or as a TrainJob this is the first of all processes.

    Args:
        job: the training.
        watch: hears of progress.

    Raises:
        UserError: see `epg.training.loop.train`; weights to start from that do not fit; a batch
            that the processes cannot share; another process that failed.
        SystemExit: after a signal, once a checkpoint is stored.
    """
    place = given_place() or _own_place()
    if place is None:
        return run_rank(job, World.single(prepare_device()), watch)
    from epg.training.processes import lead  # takes a second

    _check_batch(job, place.size)
    return lead(job, place, lambda job, world: run_rank(job, world, watch))


def _own_place() -> Place | None:
    """Return the place of the first of this machine's processes; None where one is enough."""
    count = local_processes()
    return Place(0, count, 0, count, starts=True) if count > 1 else None


def _check_batch(job: TrainingJob, size: int) -> None:
    batch = job.optimizer.batch_size
    if batch % size:
        raise UserError(
            f"{job.objective}.batch_size is {batch}: {size} processes share each batch, so it must "
            f"be a multiple of {size}"
        )


def run_rank(job: TrainingJob, world: World, watch: Watch) -> Trained:
    """Do one process's part of a job. The files are written by the first rank."""
    job = with_files(job, world)
    precision = Precision(job.optimizer.precision, job.objective, world.device)
    store = open_store(job.store)
    objective = BUILDERS[job.objective](job, world, precision)
    series = train(
        objective,
        job.optimizer,
        lambda start: _batches(job, store, world, start),
        _keeper(job, store, watch),
        watch,
        world,
        precision,
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


def with_files(job: TrainingJob, world: World) -> TrainingJob:
    """Give the weights to start from to processes of machines that do not have the files."""
    missing = any(not path.exists() for path in job.weights.values())
    if not world.reduce(torch.tensor(float(missing))):
        return job
    weights = {}
    for kind, path in job.weights.items():
        content = path.read_bytes() if world.rank == 0 else b""
        size = world.decide(len(content))
        shared = torch.frombuffer(bytearray(content or bytes(size)), dtype=torch.uint8)
        world.share([shared])
        weights[kind] = path
        if world.rank:
            weights[kind] = job.scratch / f"given-{kind}.safetensors"
            weights[kind].write_bytes(shared.numpy().tobytes())
    return replace(job, weights=weights)


def _batches(
    job: TrainingJob, store: Store, world: World, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless slices of batches on the device; the order depends on (seed, stage, step) alone."""
    reader = ShardReader(store, job.manifest, "train")
    seed = derive_seed(job.recipe.seed, job.stage, "order")
    for batch in reader.batches(job.optimizer.batch_size, seed, start, world.rank, world.size):
        images = torch.from_numpy(batch.images).to(world.device, non_blocking=True)
        yield images, torch.from_numpy(batch.labels).to(world.device, non_blocking=True)


def _keeper(job: TrainingJob, store: Store, watch: Watch) -> Keeper:
    """Keep checkpoints in the job's store; training does not wait for one that is far away."""
    checkpoints = Checkpoints(
        HeldStore(store.sub(f"{job.stage}/checkpoints"), watch.guard),
        job.config,
        job.inputs,
        job.scratch,
        warn=watch.warning,
        kept=lambda: watch.measured(checkpoint_time=time.time()),
    )
    if isinstance(store, LocalStore):
        return checkpoints
    return Delivery(checkpoints, tell=watch.message, warn=watch.warning)

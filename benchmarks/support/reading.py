"""What else a reader of shards is held to: its start, its waits, its memory, its shuffling."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.support.rounds import resident_memory
from epg.data.manifest import Manifest
from epg.data.reader import ShardReader
from epg.store import Store

BATCH = 100
WINDOW = 256 * 1024**2  # or half of the images, where these are few
STEP_SECONDS, STEPS = 0.05, 40  # of a pretended training: 2,000 images a second


def small_reader(store: Store, manifest: Manifest) -> ShardReader:
    """Return a reader whose window is smaller than the set."""
    images = manifest.num_samples("train") * manifest.image_size**2 * manifest.channels
    return ShardReader(store, manifest, "train", window_bytes=min(WINDOW, images // 2))


def start(store: Store, manifest: Manifest) -> dict[str, float]:
    """Seconds to the first batch: of a new reader, and of one that begins far away."""
    found = {}
    for name, step in (("first_batch", 0), ("resumed_batch", 100_003)):
        begun = time.perf_counter()
        batches = small_reader(store, manifest).batches(BATCH, 0, step)
        next(batches)
        found[name] = time.perf_counter() - begun
        batches.close()
    return found


def training(store: Store, manifest: Manifest) -> dict[str, float]:
    """Milliseconds for which a training waits, whose steps take a while: mean and longest."""
    batches = small_reader(store, manifest).batches(BATCH, seed=0)
    next(batches)
    waits = []
    for _ in range(STEPS):
        time.sleep(STEP_SECONDS)
        begun = time.perf_counter()
        next(batches)
        waits.append(1000 * (time.perf_counter() - begun))
    batches.close()
    return {"step": 1000 * STEP_SECONDS, "mean": float(np.mean(waits)), "longest": max(waits)}


def memory(store: Store, manifest: Manifest, images: int = 100_000) -> dict[str, float]:
    """Resident bytes after an epoch, and after many images."""
    batches = small_reader(store, manifest).batches(BATCH, seed=0)
    epoch = manifest.num_samples("train") // BATCH
    for _ in range(epoch):
        next(batches)
    found = {"after_an_epoch": resident_memory(), "images": images}
    for _ in range(images // BATCH):
        next(batches)
    batches.close()
    return {**found, "in_the_end": resident_memory()}


def shuffle_quality(store: Store, manifest: Manifest) -> dict[str, float]:
    """How far samples travel, as a part of the epoch (a third is all one can), and how they mix."""
    batches = small_reader(store, manifest).batches(BATCH, seed=0)
    found = [next(batches) for _ in range(manifest.num_samples("train") // BATCH)]
    ids = np.concatenate([batch.ids for batch in found])
    batches.close()
    return {
        "mean_travel": float(np.abs(ids - np.arange(len(ids))).mean() / len(ids)),
        "classes_per_batch": float(np.mean([len(set(b.labels.tolist())) for b in found])),
    }

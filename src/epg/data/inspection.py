"""Looking at a finished data set: what is in its shards, and whether all is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.lanes import Run
from epg.data.manifest import Manifest, ShardInfo
from epg.data.shard_format import ShardError
from epg.data.shard_index import index_of
from epg.data.shard_reading import Buffers, SplitShards
from epg.errors import UserError
from epg.store.base import ObjectNotFound, Store

_SHARDS_LOOKED_AT = 8  # for samples and sizes: each holds a mix of all classes
_BARS = 12

OnShard = Callable[[int, int], None]


class Bar(NamedTuple):
    """Images whose stored bytes are at least `low` and below `high`."""

    low: int
    high: int
    images: int


class Samples(NamedTuple):
    """Some images of a split: images uint8 [N, H, W, C], labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def stored_sizes(store: Store, manifest: Manifest, split: str = "train") -> list[Bar]:
    """Return how many images take how many bytes, of the first shards of a split.

    Raises:
        UserError: an index cannot be read.
    """
    shards = SplitShards(store, manifest, split)
    numbers = range(min(len(shards.infos), _SHARDS_LOOKED_AT))
    lengths = np.concatenate([shards.index(number).lengths for number in numbers])
    low, high = int(lengths.min()), int(lengths.max()) + 1
    edges = np.unique(np.linspace(low, high, min(_BARS, high - low) + 1).astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    return [
        Bar(int(a), int(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def some_samples(
    store: Store, manifest: Manifest, labels: list[int], per_class: int, split: str = "train"
) -> Samples:
    """Return the first images of some classes, read one by one; fewer where few shards have them.

    Raises:
        UserError: a shard cannot be read, or was altered.
    """
    shards, buffers = SplitShards(store, manifest, split), Buffers()
    wanted: dict[int, list[Run]] = {label: [] for label in labels}
    for number in range(min(len(shards.infos), _SHARDS_LOOKED_AT)):
        found = shards.index(number).labels
        for label, runs in wanted.items():
            for row in np.flatnonzero(found == label)[: per_class - len(runs)].tolist():
                runs.append(Run(number, row, 1))
        if all(len(runs) == per_class for runs in wanted.values()):
            break
    images, of_image = [], []
    for label, runs in wanted.items():
        for run in runs:
            images.append(np.empty(shards.shape, np.uint8))
            shards.read(run, images[-1:], buffers)
            of_image.append(label)
    empty = np.zeros((0, *shards.shape), np.uint8)
    return Samples(np.stack(images) if images else empty, np.asarray(of_image, np.int64))


def faults(
    store: Store, manifest: Manifest, deep: bool = False, on_shard: OnShard | None = None
) -> list[str]:
    """Return what is wrong with a data set, one line each; nothing where all is well.

    Args:
        store: that the manifest's keys are relative to.
        manifest: the data set.
        deep: read every byte: digests, labels, counts of classes, and every image; without it,
            only whether all objects are there in their sizes.
        on_shard: called with (shards done, shards in all).

    Raises:
        UserError: the store cannot be asked, which says nothing about the shards.
    """
    found: list[str] = []
    every = [(split, info) for split in manifest.splits for info in manifest.shards(split)]
    counts = {split: np.zeros(len(manifest.classes), np.int64) for split in manifest.splits}
    for done, (split, info) in enumerate(every, 1):
        wrong = _objects(store, info)
        if not wrong and deep:
            wrong = _content(store, manifest, split, info, counts[split])
        found += wrong
        if on_shard is not None:
            on_shard(done, len(every))
    if deep and not found:
        for split, seen in counts.items():
            different = np.flatnonzero(seen != np.asarray(manifest.class_counts[split]))
            found += [
                f"{split}: {seen[label]:,} images of {manifest.classes[label]!r}, the manifest "
                f"says {manifest.class_counts[split][label]:,}"
                for label in different.tolist()
            ]
    return found


def _objects(store: Store, info: ShardInfo) -> list[str]:
    expected = {info.key: info.size}
    if info.index_size:
        expected[info.index_key] = info.index_size
    found = []
    for key, size in expected.items():
        there = store.size(key)
        if there is None:
            found.append(f"{key} is missing")
        elif there != size:
            found.append(f"{key} has {there:,} bytes, {size:,} are expected")
    return found


def _content(
    store: Store, manifest: Manifest, split: str, info: ShardInfo, counts: NDArray[np.int64]
) -> list[str]:
    """Read a whole shard; add its labels to `counts`."""
    try:
        data = store.get_bytes(info.key)
        digest = hashlib.sha256(data).hexdigest()
        if digest != info.sha256:
            return [f"{info.key}: SHA-256 is {digest[:12]}..., {info.sha256[:12]}... is expected"]
        index = index_of(data, len(manifest.classes), split)
        if info.index_size:
            beside = hashlib.sha256(store.get_bytes(info.index_key)).hexdigest()
            if beside != info.index_sha256:
                return [f"{info.index_key}: another SHA-256 than the manifest's"]
    except ObjectNotFound as error:
        return [str(error)]
    except ShardError as error:
        return [f"{info.key}: {error}"]
    del data
    counts += np.bincount(index.labels, minlength=len(counts))
    number = manifest.shards(split).index(info)
    try:
        shards, buffers = SplitShards(store, manifest, split), Buffers()
        images = np.empty((256, *shards.shape), np.uint8)
        for first in range(0, info.num_samples, len(images)):
            rows = min(len(images), info.num_samples - first)
            shards.read(Run(number, first, rows), list(images[:rows]), buffers)
    except UserError as error:
        return [str(error)]
    return []

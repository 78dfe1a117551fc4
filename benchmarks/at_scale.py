"""ImageNet's layout through an object store: sharded, streamed back by two readers, with kills.

The archives lie in the store and are read there. They are sharded once without interruption, then
again with a kill in the middle of an upload: the second manifest, with the SHA-256 of every shard,
must be the first one. An epoch is then read by two processes that are killed in the middle and go
on at the last batch that both have noted; the next epoch is read by four. Ledgers have the id and
the CRC-32 of every image that came: each image must be there once an epoch, and all of it equal to
two epochs that two processes have read without interruption. Time and memory of every process are
noted.

    export EPG_S3_ACCESS_KEY=... EPG_S3_SECRET_KEY=...
    PYTHONPATH=. python benchmarks/make_imagenet.py FOLDER --classes 1000 --per-class 95 --side 96
    PYTHONPATH=. python benchmarks/at_scale.py FOLDER --store minio://localhost:9000/BUCKET
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.rounds import report, resident_memory, versions
from epg.config.data import DataConfig
from epg.data.manifest import Manifest
from epg.data.reader import ShardReader
from epg.data.sharding import MANIFEST_NAME, write_shards
from epg.data.sources import open_source, source_contents
from epg.store import Store, open_store

PREFIX, BATCH, SIZE, SEED = "shards/at-scale", 256, 64, 0
WINDOW = 64 * 1024**2
SHARD_BYTES = 40_000_000  # an upload of three parts each
LOOK_SECONDS = 0.25  # between two looks at the memory
MEMORY_POINTS = 16


def settings(source: str) -> DataConfig:
    """Return how the images are stored: raw pixels of 64×64."""
    return DataConfig(
        source=source,
        image_size=SIZE,
        channels=3,
        mean=(0.5,),
        std=(0.5,),
        shard_bytes=SHARD_BYTES,
    )


def shard(uri: str) -> dict[str, Any]:
    """Make the shards of the archives below `uri`; in a process of its own."""
    spec = f"imagenet:{uri}/archives"
    config, begun = settings(spec), time.perf_counter()
    contents = source_contents(spec)
    store = open_store(uri)
    source = open_source(spec, config, SEED, contents)
    digested = time.perf_counter() - begun
    manifest = write_shards(source, config, SEED, store, PREFIX, source_digest=contents.digest)
    every = [info for of_split in manifest.splits.values() for info in of_split]
    return {
        "seconds_for_the_digest": digested,
        "images": sum(info.num_samples for info in every),
        "shards": len(every),
        "bytes": sum(info.size for info in every),
    }


def read(uri: str, ledger: Path, start: int, stop: int, rank: int, ranks: int) -> dict[str, Any]:
    """Read a process's part of the batches from `start` to `stop`, noting what came."""
    begun = time.perf_counter()
    store = open_store(uri)
    manifest = Manifest.from_json(store.get_bytes(f"{PREFIX}/{MANIFEST_NAME}"))
    reader = ShardReader(store, manifest, "train", window_bytes=WINDOW)
    batches = reader.batches(BATCH, SEED, start, rank, ranks)
    first = 0.0
    with ledger.open("ab", buffering=0) as file:
        for _ in range(start, stop):
            batch = next(batches)
            first = first or time.perf_counter() - begun
            sums = [zlib.crc32(image) for image in batch.images]
            file.write(np.stack([batch.ids, np.asarray(sums, np.int64)], axis=1).tobytes())
    batches.close()
    images = (stop - start) * BATCH // ranks
    return {"seconds_to_first_batch": first, "images": images, "bytes": images * SIZE**2 * 3}


class Child:
    """This script in another process."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments)]
        env = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # as the images have it
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for something that must come before its end."""
        while not ready():
            if self._process.poll() is not None:
                raise RuntimeError("it has ended before it was to be killed")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a lost node does."""
        self._process.kill()
        self._process.communicate()

    def result(self) -> dict[str, Any]:
        """Return what it found, with its time and memory."""
        said, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"a process ended with {self._process.returncode}")
        found: dict[str, Any] = json.loads(said)
        return found


def measured(work: Callable[[], dict[str, Any]]) -> None:
    """Do a child's work, and print what it found, with its memory over time."""
    looks: list[float] = []

    def look() -> None:
        while True:
            looks.append(resident_memory() / 2**20)
            time.sleep(LOOK_SECONDS)

    threading.Thread(target=look, daemon=True).start()
    begun = time.perf_counter()
    found = work()
    wall = time.perf_counter() - begun
    parts = [part for part in np.array_split(looks, MEMORY_POINTS) if len(part)]
    found |= {
        "wall_seconds": wall,
        "cpu_seconds": time.process_time(),
        "megabytes_per_second": found["bytes"] / wall / 1e6,
        "memory_MiB": [round(float(part.max()), 1) for part in parts],
    }
    print(json.dumps(found))


def sharded(store: Store, uri: str) -> dict[str, Any]:
    """Make the shards twice, the second time with a kill; return what the processes took.

    Raises:
        AssertionError: the two have not left the same.
    """
    whole = Child("--shard", uri).result()
    expected = store.get_bytes(f"{PREFIX}/{MANIFEST_NAME}")
    store.clear("shards")

    def finished() -> int:
        return sum(1 for info in store.list(f"{PREFIX}/") if info.key.endswith(".part.json"))

    child = Child("--shard", uri)
    child.wait_until(lambda: finished() >= whole["shards"] // 2)
    time.sleep(1.0)  # into the next shard
    child.kill()
    there = finished()
    resumed = Child("--shard", uri).result()
    assert store.get_bytes(f"{PREFIX}/{MANIFEST_NAME}") == expected, "another manifest"
    return {"uninterrupted": whole, "shards_before_the_kill": there, "resumed": resumed}


def epochs(uri: str, folder: Path, images: int) -> dict[str, Any]:
    """Read two epochs with a kill and without; return what the processes took.

    Raises:
        AssertionError: an image is not there once an epoch, or anything came that is not equal.
    """
    middle, end = -(-images // BATCH), -(-2 * images // BATCH)

    def start(name: str, first: int, stop: int, ranks: int) -> list[Child]:
        return [
            Child("--read", uri, folder / f"{name}-{rank}", first, stop, rank, ranks)
            for rank in range(ranks)
        ]

    rows = {"uninterrupted": [child.result() for child in start("whole", 0, end, 2)]}
    two, ledgers = start("two", 0, middle, 2), [folder / f"two-{rank}" for rank in range(2)]
    part = BATCH // 2 * 16  # bytes of a batch in a ledger

    def noted_by_all() -> int:
        return min(path.stat().st_size if path.exists() else 0 for path in ledgers) // part

    for child in two:
        child.wait_until(lambda: noted_by_all() > middle // 2)
    for child in two:
        child.kill()
    noted = noted_by_all()
    for ledger in ledgers:
        os.truncate(ledger, noted * part)
    rows["resumed"] = [child.result() for child in start("two", noted, middle, 2)]
    rows["four readers"] = [child.result() for child in start("four", middle, end, 4)]
    whole = in_order([folder / f"whole-{rank}" for rank in range(2)])
    again = in_order(ledgers), in_order([folder / f"four-{rank}" for rank in range(4)])
    assert np.array_equal(whole, np.concatenate(again)), "a kill has changed what came"
    check_epochs(whole[:, 0].reshape(-1, BATCH), images)
    return {"rows": rows, "killed_after_batches": noted, "batches": end, "ledger": len(whole)}


def check_epochs(batches: np.ndarray, images: int) -> None:
    """Raise `AssertionError` unless each id is there once in each of two epochs.

    A batch in which one epoch ends has samples of both, in no order: what the first still lacks
    must be among them, and the others are the second's.
    """
    carried = np.zeros(0, np.int64)
    for epoch in range(2):
        before = (images - len(carried)) // BATCH
        counts = np.bincount([*carried, *batches[:before].ravel()], minlength=images)
        ending = batches[before].tolist() if before < len(batches) else []
        for lacking in np.flatnonzero(counts == 0).tolist():
            assert lacking in ending, f"epoch {epoch}: image {lacking} is missing"
            ending.remove(lacking)
        assert counts.max() == 1, f"epoch {epoch}: an image is there {counts.max()} times"
        assert len(counts) == images, f"epoch {epoch}: an id above {images}"
        carried, batches = np.asarray(ending, np.int64), batches[before + 1 :]


def in_order(ledgers: list[Path]) -> np.ndarray:
    """Return ids and CRC-32, [N, 2], of whole batches: the parts of all processes side by side."""
    local = BATCH // len(ledgers)
    parts = [np.fromfile(path, np.int64).reshape(-1, local, 2) for path in ledgers]
    return np.concatenate(parts, axis=1).reshape(-1, 2)


def main() -> None:
    """Do it all, check the ledger, and write what it took."""
    if sys.argv[1:2] == ["--shard"]:
        return measured(lambda: shard(sys.argv[2]))
    if sys.argv[1:2] == ["--read"]:
        uri, ledger, *numbers = sys.argv[2:]
        return measured(lambda: read(uri, Path(ledger), *map(int, numbers)))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="that make_imagenet.py has filled")
    parser.add_argument("--store", default="", help="minio://HOST:PORT/BUCKET")
    parser.add_argument("--server", default="", help="what serves it, for the record")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if not given.store or given.folder is None:
        print("no FOLDER and --store: nothing is measured")
        return None
    store = open_store(given.store)
    store.clear("shards")
    sizes = {path.name: path.stat().st_size for path in sorted(given.folder.iterdir())}
    for name in sizes:
        store.put_file(f"archives/{name}", given.folder / name)
    made = sharded(store, given.store)
    manifest = Manifest.from_json(store.get_bytes(f"{PREFIX}/{MANIFEST_NAME}"))
    images = manifest.num_samples("train")
    with tempfile.TemporaryDirectory(prefix="epg-at-scale-") as name:
        found = epochs(given.store, Path(name), images)
    content = {
        "server": given.server,
        "size": SIZE,
        "batch": BATCH,
        "window_bytes": WINDOW,
        "archives": sizes,
        "versions": versions("minio", "numpy", "pillow"),
        "sharding": made,
        "train_images": images,
        "skipped": manifest.report["skipped"],
        "converted": manifest.report["converted"],
        "reading": found,
        "same_bytes_after_a_kill": True,
        "every_image_once_an_epoch": True,
        "ratios": {},
    }
    report("at_scale", given.output, content)
    return None


if __name__ == "__main__":
    main()

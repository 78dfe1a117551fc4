"""Shards in an object store: an emulator, and a real MinIO where there is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from epg.data.manifest import Manifest
from epg.data.reader import ShardReader
from epg.data.sharding import write_shards
from epg.store import Store, open_store
from epg.store.s3.client import S3Store
from tests.s3_server import S3Server
from tests.toys.command import ROOT
from tests.toys.noise_shards import CONFIG, IMAGES, SIZE, Noise, picture
from tests.unit.data.conftest import BUCKET


@pytest.fixture
def store(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    server.set_environment(monkeypatch)
    return open_store(server.store_uri(f"{BUCKET}/{tmp_path.name}"))


def check_epochs(store: Store, manifest: Manifest, world_size: int) -> None:
    """Two epochs by some ranks, one of which begins anew on the way: each image once an epoch."""
    seen: Counter[int] = Counter()
    for rank in range(world_size):
        for first, count in ((0, 25), (25, 55)):
            reader = ShardReader(store, manifest, "train", window_bytes=10_000_000)
            batches = reader.batches(12, 1, first, rank, world_size)
            for batch in islice(batches, count):
                seen.update(batch.ids.tolist())
                assert batch.images.shape == (12 // world_size, SIZE, SIZE, 3)
            batches.close()
    assert seen == Counter(dict.fromkeys(range(IMAGES), 2))


def test_shards_go_up_in_parts_and_come_back_by_windows(store, tmp_path):
    manifest = write_shards(Noise(), CONFIG, 0, store, "s")
    assert len(manifest.shards("train")) == 2
    local = open_store(str(tmp_path / "local"))
    assert write_shards(Noise(), CONFIG, 0, local, "s") == manifest  # the same bytes
    check_epochs(store, manifest, 2)
    images, labels = ShardReader(store, manifest, "train").load()
    expected = Counter(picture(n).tobytes() for n in range(IMAGES))
    assert Counter(image.tobytes() for image in images) == expected
    assert np.bincount(labels).tolist() == [160, 160, 160]


def test_a_killed_upload_leaves_nothing_that_stays(store, server, tmp_path):
    uri = server.store_uri(f"{BUCKET}/{tmp_path.name}")
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "toys" / "noise_shards.py", uri],
        env={**os.environ, **server.environment()},
    )
    assert isinstance(store, S3Store)
    client, name = store._connection.client, store._name("s/train-000000.tar")
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if client._list_multipart_uploads(BUCKET, prefix=name).uploads:
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the upload was over before it was seen"
    assert store.size("s/train-000000.tar") is None
    assert store.size("s/manifest.json") is None
    manifest = write_shards(Noise(), CONFIG, 0, store, "s")
    assert client._list_multipart_uploads(BUCKET, prefix=name).uploads == []
    found = sorted(info.key for info in store.list("s/"))
    keys = [s.key for split in manifest.splits.values() for s in split]
    beside = (f"{key}.{suffix}" for key in keys for suffix in ("index", "part.json"))
    assert found == sorted([*keys, *beside, "s/manifest.json"])


@pytest.mark.parametrize("damage", ["image", "shorter"])
def test_altered_bytes_of_a_server_are_found(store, damage, monkeypatch):
    from epg.errors import UserError

    monkeypatch.setattr("epg.data.shard_reading.PAUSE_SECONDS", 0.0)
    manifest = write_shards(Noise(), CONFIG, 0, store, "s")
    shard = manifest.shards("train")[1]
    data = bytearray(store.get_bytes(shard.key))
    data[2_000_000] ^= 4
    store.put_bytes(shard.key, bytes(data if damage == "image" else data[:2_000_000]))
    reader = ShardReader(store, manifest, "train", window_bytes=10_000_000)
    with pytest.raises(UserError, match=r"train-000001.tar has (other bytes at|ended within)"):
        list(islice(reader.batches(12, 1), 40))

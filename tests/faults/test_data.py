"""Shards that were altered, cut, exchanged or made by somebody else are never trained on."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from epg.config.data import DataConfig
from epg.data.manifest import Manifest
from epg.data.reader import ShardReader
from epg.data.sharding import write_shards
from epg.data.sources import open_source
from epg.errors import UserError
from epg.store import Store, open_store


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Store, Manifest]:
    config = DataConfig(
        source="digits",
        image_size=8,
        channels=1,
        num_classes=10,
        mean=(0.5,),
        std=(0.5,),
        samples_per_shard=500,
    )
    store = open_store(str(tmp_path))
    return store, write_shards(open_source("digits", config, 0), config, 0, store, "shards/x")


def read_error(store: Store, manifest: Manifest, **options) -> str:
    reader = ShardReader(store, manifest, "train", **options)
    with pytest.raises(UserError) as caught:
        next(reader.batches(1000, 0))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_shard(store: Store, manifest: Manifest, data: bytes, **changes) -> Manifest:
    """Put `data` in the place of the first shard and let the manifest agree."""
    first, *others = manifest.splits["train"]
    store.put_bytes(first.key, data)
    digest = hashlib.sha256(data).hexdigest()
    first = replace(first, size=len(data), sha256=digest, **changes)
    return replace(manifest, splits={**manifest.splits, "train": [first, *others]})


@pytest.mark.parametrize("streamed", [False, True])
def test_one_flipped_bit(digits, streamed):
    store, manifest = digits
    shard = manifest.shards("train")[1]
    data = bytearray(store.get_bytes(shard.key))
    data[70_000] ^= 1
    store.put_bytes(shard.key, bytes(data))
    options = {"window_bytes": 0} if streamed else {}
    message = read_error(store, manifest, **options)
    assert shard.key in message
    assert shard.sha256 in message
    assert hashlib.sha256(data).hexdigest() in message
    assert "move it away and run the same command again" in message


@pytest.mark.parametrize(
    ("cut", "found"),
    [(slice(0, 0), "0 bytes"), (slice(0, -1), "bytes"), (slice(0, 1024), "1024 bytes")],
)
def test_truncated(digits, cut, found):
    store, manifest = digits
    shard = manifest.shards("train")[0]
    store.put_bytes(shard.key, store.get_bytes(shard.key)[cut])
    message = read_error(store, manifest)
    assert f"{shard.key} has " in message
    assert found in message
    assert f"the manifest says {shard.size} with SHA-256 {shard.sha256}" in message


def test_longer_than_it_should_be(digits):
    store, manifest = digits
    shard = manifest.shards("train")[0]
    store.put_bytes(shard.key, store.get_bytes(shard.key) + b"x")
    assert f"has more than {shard.size} bytes" in read_error(store, manifest)


def test_error_page_instead_of_a_shard(digits):
    store, manifest = digits
    store.put_bytes(manifest.shards("train")[0].key, b"<html>503 Slow Down</html>")
    assert "has 26 bytes, the manifest says" in read_error(store, manifest)


def test_missing(digits):
    store, manifest = digits
    shard = manifest.shards("train")[0]
    store.delete(shard.key)
    assert shard.key in read_error(store, manifest)


def test_two_shards_exchanged(digits):
    store, manifest = digits
    first, second, _ = manifest.shards("train")
    one, two = store.get_bytes(first.key), store.get_bytes(second.key)
    store.put_bytes(first.key, two)
    store.put_bytes(second.key, one)
    assert "SHA-256" in read_error(store, manifest)


def tar_of(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


class Explosive:
    """Fails the test as soon as somebody unpickles it."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


GOOD = npy(np.zeros((8, 8, 1), np.uint8))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("train/0-0.pkl", pickle.dumps(Explosive()))], "a name that epg does not write"),
        ([("train/0-0.pth", b"x")], "a name that epg does not write"),
        (
            [("train/0-0.npy", npy(np.array([Explosive()], object))), ("train/0-0.cls", b"0")],
            "no array uint8 (8, 8, 1) as epg writes it",
        ),
        ([("../../x.npy", GOOD)], "a name that epg does not write"),
        ([("train/0-0.npy", GOOD)], "a sample is one .npy followed by its .cls"),
        ([("train/0-0.cls", b"0"), ("train/0-0.npy", GOOD)], "a sample is one .npy"),
        ([("train/0-0.npy", GOOD), ("train/0-1.cls", b"0")], "a sample is one .npy"),
        ([("train/0-0.npy", GOOD), ("train/0-0.cls", b"10")], "label b'10', expected 0 to 9"),
        (
            [("held-out/0-0.npy", GOOD), ("held-out/0-0.cls", b"0")],
            "the sample is not of the split 'train'",
        ),
        ([("train/0-0.npy", GOOD), ("train/0-0.cls", b"0")], "1 samples, the manifest says 2"),
        (
            [(f"train/0-{i}.{k}", {"npy": GOOD, "cls": b"0"}[k])
             for i in range(3) for k in ("npy", "cls")],
            "more samples than the 2 of the manifest",
        ),
        ([], "0 samples, the manifest says 2"),
    ],
)  # fmt: skip
def test_hostile_shards_of_a_matching_manifest(digits, members, message):
    store, manifest = digits
    manifest = with_shard(store, manifest, tar_of(*members), num_samples=2)
    found = read_error(store, manifest)
    assert message in found
    assert manifest.shards("train")[0].key in found
    assert "make the shards again" in found


def test_nothing_is_written_by_reading(digits, tmp_path):
    store, manifest = digits
    before = sorted(tmp_path.rglob("*"))
    link = tarfile.TarInfo("train/0-0.npy")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "target")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(link)
    manifest = with_shard(store, manifest, stream.getvalue(), num_samples=2)
    assert "is not a regular file (type '2')" in read_error(store, manifest)
    assert sorted(tmp_path.rglob("*")) == before

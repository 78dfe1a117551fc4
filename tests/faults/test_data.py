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
from epg.data.manifest import Manifest, ShardInfo
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
    first = replace(first, size=len(data), sha256=digest, index_size=0, index_sha256="", **changes)
    return replace(manifest, splits={**manifest.splits, "train": [first, *others]})


def without_index(manifest: Manifest) -> Manifest:
    """What version 0.2 wrote: shards without an index are checked as a whole."""
    splits = {
        split: [replace(shard, index_size=0, index_sha256="") for shard in shards]
        for split, shards in manifest.splits.items()
    }
    return replace(manifest, splits=splits, format_version=1)


def image_bytes(store: Store, shard: ShardInfo, row: int) -> tuple[str, int, int]:
    """Name, offset and length of an image, as the index has them."""
    name, offset, length, _, _ = (
        store.get_bytes(shard.index_key).decode().splitlines()[row + 1].split("\t")
    )
    return name, int(offset), int(length)


@pytest.mark.parametrize("streamed", [False, True])
def test_one_flipped_bit_of_an_image(digits, streamed):
    store, manifest = digits
    shard = manifest.shards("train")[1]
    name, offset, length = image_bytes(store, shard, 30)
    data = bytearray(store.get_bytes(shard.key))
    data[offset + length - 1] ^= 1
    store.put_bytes(shard.key, bytes(data))
    message = read_error(store, manifest, **({"window_bytes": 0} if streamed else {}))
    assert shard.key in message
    assert f"other bytes at sample {name}: CRC-32 " in message
    assert "move it away and run the same command again" in message


def test_one_flipped_bit_anywhere_without_an_index(digits):
    store, manifest = digits
    shard = manifest.shards("train")[1]
    data = bytearray(store.get_bytes(shard.key))
    data[70_000] ^= 1
    store.put_bytes(shard.key, bytes(data))
    message = read_error(store, without_index(manifest))
    assert shard.key in message
    assert shard.sha256 in message
    assert hashlib.sha256(data).hexdigest() in message


@pytest.mark.parametrize("damage", ["gone", "altered", "another's"])
def test_a_lost_index_costs_a_reading_and_nothing_else(digits, damage):
    store, manifest = digits
    expected, _ = ShardReader(store, manifest, "train").load()
    shard, other, _ = manifest.shards("train")
    if damage == "gone":
        store.delete(shard.index_key)
    elif damage == "altered":
        store.put_bytes(shard.index_key, store.get_bytes(shard.index_key).replace(b"1", b"2"))
    else:
        store.put_bytes(shard.index_key, store.get_bytes(other.index_key))
    assert np.array_equal(ShardReader(store, manifest, "train").load()[0], expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/0-1.npy\t512\t192\t10\t0", "label 10, length 192"),
        ("train/0-1.npy\t-5\t192\t0\t0", "it lies outside of the shard or within another"),
        ("train/0-1.npy\t512\t900000000\t0\t0", "it lies outside of the shard"),
        ("train/0-1.npy\t512\t-1\t0\t0", "it lies outside of the shard"),
        ("held-out/0-1.npy\t512\t192\t0\t0", "not of the split 'train'"),
        ("train/0-1.cls\t512\t192\t0\t0", "not of the split 'train'"),
        ("../0-1.npy\t512\t192\t0\t0", "a name that epg does not write"),
        ("train/0-1.npy\t512\t192\t0", "a damaged line"),
        ("train/0-1.npy\tx\t192\t0\t0", "a damaged line"),
        ("train/0-1.npy\t512\t192\t0\t1ffffffff", "no CRC-32"),
    ],
)
def test_hostile_index_of_a_matching_manifest(digits, line, message):
    store, manifest = digits
    first, *others = manifest.splits["train"]
    data = f"name\toffset\tlength\tlabel\tcrc32\n{line}\n".encode()
    store.put_bytes(first.index_key, data)
    digest = hashlib.sha256(data).hexdigest()
    first = replace(first, index_size=len(data), index_sha256=digest)
    hostile = replace(manifest, splits={**manifest.splits, "train": [first, *others]})
    found = read_error(store, hostile)
    assert message in found
    assert first.key in found


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 1024), slice(0, 700_000)])
@pytest.mark.parametrize("indexed", [True, False])
def test_truncated(digits, cut, indexed):
    store, manifest = digits
    manifest = manifest if indexed else without_index(manifest)
    shard = manifest.shards("train")[0]
    data = store.get_bytes(shard.key)[cut]
    assert len(data) < shard.size
    store.put_bytes(shard.key, data)
    message = read_error(store, manifest)
    assert f"{shard.key} has {'ended within sample train/' if indexed else len(data)}" in message
    assert f"the manifest says {shard.size}" in message


def test_longer_than_it_should_be(digits):
    store, manifest = digits
    shard = manifest.shards("train")[0]
    store.put_bytes(shard.key, store.get_bytes(shard.key) + b"x")
    assert f"has more than {shard.size} bytes" in read_error(store, without_index(manifest))


@pytest.mark.parametrize("indexed", [True, False])
def test_error_page_instead_of_a_shard(digits, indexed):
    store, manifest = digits
    store.put_bytes(manifest.shards("train")[0].key, b"<html>503 Slow Down</html>")
    message = read_error(store, manifest if indexed else without_index(manifest))
    assert "has ended within sample" in message if indexed else "has 26 bytes" in message


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
    assert "other bytes at sample" in read_error(store, manifest)
    assert "SHA-256" in read_error(store, without_index(manifest))


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
            [("train/0-0.npy", npy(np.array([Explosive()], object))), ("train/0-0.cls", b"0"),
             ("train/0-1.npy", GOOD), ("train/0-1.cls", b"0")],
            "no array uint8 (8, 8, 1) as epg writes it",
        ),
        ([("../../x.npy", GOOD)], "a name that epg does not write"),
        ([("train/0-0.npy", GOOD)], "a sample is one image, such as .npy, followed by its .cls"),
        ([("train/0-0.cls", b"0"), ("train/0-0.npy", GOOD)], "a sample is one image"),
        ([("train/0-0.npy", GOOD), ("train/0-1.cls", b"0")], "a sample is one image"),
        ([("train/0-0.npy", GOOD), ("train/0-0.cls", b"10")], "label b'10', expected 0 to 9"),
        (
            [("held-out/0-0.npy", GOOD), ("held-out/0-0.cls", b"0")],
            "the sample is not of the split 'train'",
        ),
        ([("train/0-0.npy", GOOD), ("train/0-0.cls", b"0")], "1 samples, the manifest says 2"),
        (
            [(f"train/0-{i}.{k}", {"npy": GOOD, "cls": b"0"}[k])
             for i in range(3) for k in ("npy", "cls")],
            "3 samples, the manifest says 2",
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

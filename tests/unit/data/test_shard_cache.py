"""The cache of shards on a local disk: same batches, fewer bytes from the store, never too many."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest

from epg.data import shard_cache
from epg.data.reader import ShardReader
from epg.data.sharding import write_shards
from epg.data.sources import open_source
from epg.errors import UserError
from epg.store import open_store
from epg.store.local import LocalStore

STEPS = 60  # of 64 samples: two epochs and more of the 1,438 digits
BLOCK = 10_000  # bytes; a sample takes 2,560


@pytest.fixture
def read(monkeypatch):
    """Counts the bytes that come from the store's shards."""
    counted = [0]
    original = LocalStore.read_apart  # by which `read_into` reads, too

    def counting(store, key, offset, targets):
        count = original(store, key, offset, targets)
        counted[0] += count
        return count

    monkeypatch.setattr(LocalStore, "read_apart", counting)
    monkeypatch.setattr(shard_cache, "BLOCK_BYTES", BLOCK)
    return counted


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EPG_CACHE_DIR", str(folder))
    return folder


def batches(store, manifest, steps=STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Images and ids of a fresh reader that keeps almost nothing in memory."""
    stream = ShardReader(store, manifest, "train", window_bytes=90_000).batches(64, 0)
    found = list(itertools.islice(stream, steps))
    stream.close()
    return np.stack([b.images for b in found]), np.stack([b.ids for b in found])


def same(one, two) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def limit(monkeypatch, count: int) -> None:
    monkeypatch.setenv("EPG_CACHE_GIB", str(count / 1024**3))


def test_every_byte_comes_once(digits, read, tmp_path, monkeypatch):
    store, manifest = digits
    whole = sum(shard.size for shard in manifest.shards("train"))
    without = batches(store, manifest)
    assert read[0] > 0
    monkeypatch.setenv("EPG_CACHE_DIR", str(tmp_path / "cache"))
    read[0] = 0
    assert same(batches(store, manifest), without)
    assert read[0] < 1.5 * whole  # threads may ask for the same block at once
    assert size_of(tmp_path / "cache") <= whole
    read[0] = 0
    assert same(batches(store, manifest), without)  # another process, after a kill
    assert read[0] == 0


def test_it_keeps_to_its_limit_and_to_what_it_has(digits, read, cache, monkeypatch):
    store, manifest = digits
    monkeypatch.delenv("EPG_CACHE_DIR")
    without = batches(store, manifest, 23)
    from_store = read[0]
    monkeypatch.setenv("EPG_CACHE_DIR", str(cache))
    whole = sum(shard.size for shard in manifest.shards("train"))
    limit(monkeypatch, whole // 2)
    monkeypatch.setattr(shard_cache, "_LOOKS", 1)
    assert same(batches(store, manifest, 23), without)
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert 0.2 * whole < size_of(cache) <= whole // 2
    read[0] = 0
    assert same(batches(store, manifest, 23), without)
    assert 0 < read[0] < 0.9 * from_store
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_two_that_fill_it_at_once_keep_to_its_limit(digits, read, cache, monkeypatch):
    store, manifest = digits
    most = sum(shard.size for shard in manifest.shards("train")) // 2
    limit(monkeypatch, most)
    # Each has its own count of what lies there, as in two processes.
    two = [
        ShardReader(store, manifest, "train", window_bytes=90_000).batches(64, seed)
        for seed in range(2)
    ]
    for _ in range(23):
        for stream in two:
            next(stream)
    for stream in two:
        stream.close()
    assert 0.2 * most < size_of(cache) < 1.2 * most


@pytest.mark.parametrize("damage", ["zeros", "cut", "gone"])
def test_what_is_damaged_here_is_read_anew(digits, read, cache, damage, monkeypatch):
    monkeypatch.setattr("epg.data.shard_reading.PAUSE_SECONDS", 0)
    store, manifest = digits
    before = batches(store, manifest)
    block = sorted((cache / manifest.shards("train")[1].sha256).iterdir())[3]
    content = block.read_bytes()
    if damage == "gone":
        block.unlink()
    else:
        block.write_bytes(bytes(BLOCK) if damage == "zeros" else content[:-1])
    read[0] = 0
    assert same(batches(store, manifest), before)
    assert BLOCK <= read[0] < sum(shard.size for shard in manifest.shards("train"))
    assert block.read_bytes() == content


def test_damage_in_the_store_is_told_and_does_not_stay_here(settings, read, cache, tmp_path):
    store = open_store(str(tmp_path / "set"))
    config = settings()
    manifest = write_shards(open_source("digits", config, 0), config, 0, store, "s")
    shard = manifest.shards("train")[1]
    content = store.get_bytes(shard.key)
    store.put_bytes(shard.key, content[:20_000] + bytes(9_000) + content[29_000:])
    with pytest.raises(UserError, match="has other bytes at sample"):
        batches(store, manifest)
    store.put_bytes(shard.key, content)
    assert batches(store, manifest)[1].size == STEPS * 64


def test_other_data_make_room_and_other_files_stay(digits, read, cache, monkeypatch):
    store, manifest = digits
    other = cache / ("0" * 64)
    other.mkdir(parents=True)
    (other / "000000").write_bytes(bytes(3_000_000))
    (cache / "mine.txt").write_text("keep")
    (cache / "folder").mkdir()
    (cache / "folder" / "mine").write_bytes(bytes(3_000_000))
    limit(monkeypatch, 5_000_000)
    batches(store, manifest)
    assert not other.exists()
    assert (cache / "mine.txt").read_text() == "keep"
    assert (cache / "folder" / "mine").exists()


def test_a_full_disk_stops_no_training(digits, read, cache, monkeypatch):
    store, manifest = digits

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_cache, "write_atomically", full)
    with_it = batches(store, manifest)
    monkeypatch.delenv("EPG_CACHE_DIR")
    assert same(with_it, batches(store, manifest))


def test_what_cannot_be_removed_counts(digits, read, cache, monkeypatch):
    store, manifest = digits
    other = cache / ("0" * 64)
    other.mkdir(parents=True)
    (other / "000000").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(shard_cache.shutil, "rmtree", lambda *args, **options: None)
    limit(monkeypatch, 3_100_000)
    batches(store, manifest)
    assert size_of(cache) <= 3_100_000


def test_a_folder_that_goes_away_stops_no_training(digits, read, cache, monkeypatch):
    store, manifest = digits
    monkeypatch.setattr(shard_cache, "_LOOKS", 10**9)  # look at each block
    stream = ShardReader(store, manifest, "train", window_bytes=90_000).batches(64, 0)
    next(stream)
    cache.rename(cache.with_name("moved"))
    cache.write_text("a file")
    with_it = [next(stream).ids for _ in range(30)]
    stream.close()
    monkeypatch.delenv("EPG_CACHE_DIR")
    assert np.array_equal(np.stack(with_it), batches(store, manifest, 31)[1][1:])


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none(digits, cache, monkeypatch, text):
    store, manifest = digits
    monkeypatch.setenv("EPG_CACHE_GIB", text)
    with pytest.raises(UserError, match=f"EPG_CACHE_GIB is '{text}': a number of GiB"):
        ShardReader(store, manifest, "train")


def test_a_folder_that_cannot_be(digits, cache):
    store, manifest = digits
    cache.write_text("a file")
    with pytest.raises(UserError, match=r"cannot use .*cache: a file stands where a folder"):
        ShardReader(store, manifest, "train")

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import islice, pairwise
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from epg.data.lanes import Lanes
from epg.data.manifest import Manifest
from epg.data.order import permutation
from epg.data.reader import ShardReader
from epg.data.shard_file import ShardFile
from epg.data.shard_format import encode_pixels
from epg.data.sources.base import Image, Item
from epg.data.windows import Batch, Batches
from epg.errors import UserError
from epg.store import Store


class CountingStore:
    """Shards in memory; remembers what was read of which."""

    uri = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.opened: list[str] = []
        self.reads: list[tuple[str, int]] = []

    def open(self, key: str):
        self.opened.append(key)
        return io.BytesIO(self.objects[key])

    def read_into(self, key: str, offset: int, target: memoryview) -> int:
        part = self.objects[key][offset : offset + len(target)]
        self.reads.append((key, len(part)))
        target[: len(part)] = part
        return len(part)

    def put_bytes(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        self.objects[key] = b"".join(pieces)


def small_set(shard_sizes: list[int]) -> tuple[Any, Manifest]:
    """A `CountingStore` whose sample number i is an image of the value i mod 256, label i mod 3."""
    store, shards, number = CountingStore(), [], 0
    for index, size in enumerate(shard_sizes):
        samples = []
        for _ in range(size):
            image = Image(np.full((2, 2, 1), number % 256, np.uint8))
            image = image._replace(content=encode_pixels(image.pixels), extension="npy")
            samples.append((Item("train", number % 3, number, ""), image))
            number += 1
        shards.append(ShardFile(cast(Store, store), f"s/train-{index:06d}.tar").write(samples))
    counts = [len(range(label, number, 3)) for label in range(3)]
    manifest = Manifest(
        source="test",
        image_size=2,
        channels=1,
        classes=["a", "b", "c"],
        splits={"train": [shard for shard in shards if shard], "held-out": []},
        class_counts={"train": counts, "held-out": [0, 0, 0]},
    )
    return store, manifest


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=7)
#: A sample has 4 bytes: from one a window, over a few, to the whole split in memory.
readers = {"window_bytes": st.sampled_from([0, 100, 10**9])}


@pytest.fixture(autouse=True)
def small_overhead(monkeypatch):
    # So that windows of a few bytes hold a few of these images.
    monkeypatch.setattr("epg.data.reader._TAR_BYTES", 0)


def test_permutation_is_frozen():
    # These numbers are a promise: a run that is resumed with a newer numpy goes on the same way.
    assert permutation(10, 7, 3).tolist() == [2, 4, 7, 3, 5, 1, 8, 9, 0, 6]
    assert sorted(permutation(1000, 1).tolist()) == list(range(1000))
    assert permutation(0, 1).shape == (0,)
    assert permutation(50, 1).tolist() != permutation(50, 2).tolist()


@hypothesis_settings(max_examples=40)
@given(sizes, st.integers(1, 25), st.integers(0, 5), st.fixed_dictionaries(readers))
def test_each_sample_once_per_epoch(shard_sizes, batch_size, seed, options):
    store, manifest = small_set(shard_sizes)
    reader = ShardReader(store, manifest, "train", **options)
    total = reader.num_samples
    count = -(-3 * total // batch_size)
    batches = list(islice(reader.batches(batch_size, seed), count))
    ids = np.concatenate([batch.ids for batch in batches])
    for epoch in range(3):
        assert sorted(ids[epoch * total : (epoch + 1) * total]) == list(range(total))
    for batch in batches:
        assert batch.images.shape == (batch_size, 2, 2, 1)
        assert (batch.images[:, 0, 0, 0] == batch.ids).all()
        assert (batch.labels == batch.ids % 3).all()


@hypothesis_settings(max_examples=40)
@given(
    sizes,
    st.integers(1, 25),
    st.integers(0, 12),
    st.integers(1, 4),
    st.integers(0, 5),
    st.fixed_dictionaries(readers),
)
def test_resume_and_ranks_give_the_uninterrupted_order(
    shard_sizes, per_rank, start, world_size, seed, options
):
    store, manifest = small_set(shard_sizes)
    batch_size = per_rank * world_size
    whole = ShardReader(store, manifest, "train", **options)
    expected = list(islice(whole.batches(batch_size, seed), start, start + 3))
    ranks = [
        ShardReader(store, manifest, "train", **options).batches(
            batch_size, seed, start, rank, world_size
        )
        for rank in range(world_size)
    ]
    for batch in expected:
        slices = [next(rank) for rank in ranks]
        for name in ("images", "labels", "ids"):
            parts = np.concatenate([getattr(part, name) for part in slices])
            assert np.array_equal(parts, getattr(batch, name))
    for rank in ranks:
        rank.close()


def test_order_depends_on_seed_and_epoch():
    store, manifest = small_set([20, 20])
    reader = ShardReader(store, manifest, "train")
    first, second = islice(reader.batches(40, 0), 2)
    other = next(reader.batches(40, 1))
    assert first.ids.tolist() != second.ids.tolist()
    assert first.ids.tolist() != other.ids.tolist()
    assert first.ids.tolist() != sorted(first.ids)


def test_start_reads_nothing_before_its_place():
    store, manifest = small_set([40] * 6)
    reader = ShardReader(store, manifest, "train", window_bytes=4 * 2 * 64)
    batches = reader.batches(64, 0, start_step=10**6)
    next(batches)
    batches.close()
    # 64 lanes, each with a window of one sample: this batch, the next one, and what follows it.
    assert len(store.reads) <= 3 * 64 + 5
    assert len(set(store.opened)) <= 6  # indices; no shard is read whole


def test_ranks_read_their_own_part():
    read = []
    for rank in range(4):
        store, manifest = small_set([64] * 8)
        reader = ShardReader(store, manifest, "train", window_bytes=4 * 2 * 128)
        for _ in islice(reader.batches(64, 0, 0, rank, 4), 8):  # an epoch
            pass
        assert sum(size for _, size in store.reads) < 0.5 * 8 * 64 * 2048
        read.append(store.reads)
    assert all(one != other for one, other in pairwise(read))


@hypothesis_settings(max_examples=30)
@given(sizes, st.integers(1, 80), st.integers(0, 3), st.integers(0, 60))
def test_windows_are_the_lanes(shard_sizes, batch_size, seed, window):
    counts = np.array(shard_sizes, np.int64)
    lanes = Lanes(counts, batch_size, window, seed)
    total = int(counts.sum())
    offsets = np.concatenate([[0], np.cumsum(counts)])
    last = 2 * total // batch_size + 1
    batches = {step: [-1] * batch_size for step in range(last + 1)}
    keys = dict.fromkeys(key for step in batches for key in lanes.windows(step, 0, 1))
    seen: dict[int, list[int]] = {}
    for key in keys:
        ids = [
            offsets[run.shard] + run.first + i for run in lanes.runs(key) for i in range(run.rows)
        ]
        steps, rows = lanes.seats(key, 0, 1)
        assert len(ids) == len(steps) <= lanes.window
        assert set(steps) <= set(lanes.steps(key))
        seen.setdefault(key.epoch, []).extend(ids)
        for number, step, row in zip(ids, steps.tolist(), rows.tolist(), strict=True):
            if step in batches:
                assert key in lanes.windows(step, 0, 1)
                assert batches[step][row] == -1
                batches[step][row] = number
    assert all(-1 not in batch for batch in batches.values())
    for epoch in range(2):
        assert sorted(seen[epoch]) == list(range(total))


def test_memory_is_two_windows_a_lane():
    store, manifest = small_set([100] * 10)
    window_bytes = 4 * 2 * 64 * 3  # three samples a lane: half of it
    reader = ShardReader(store, manifest, "train", window_bytes=window_bytes)
    made: list[int] = []
    alive = 0

    class Counted(Batches):
        def take(self) -> Batch:
            nonlocal alive
            alive += 1
            made.append(alive)
            return super().take()

        def hand_out(self, batch: Batch) -> Batch:
            nonlocal alive
            alive -= 1
            return super().hand_out(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epg.data.windows.Batches", Counted)
        list(islice(reader.batches(64, 0), 30))
    assert max(made) <= 2 * 3 + 1  # batches of a sample a lane; one more at an epoch's end


def test_memory_of_batches_is_used_again_once_nobody_holds_it():
    store, manifest = small_set([30])
    batches = ShardReader(store, manifest, "train").batches(6, 0)
    first = next(batches)
    kept = first.images.copy()
    second = next(batches)
    assert not np.shares_memory(first.images, second.images)
    part = first.images[1:]
    place = first.images.ctypes.data
    del first
    assert next(batches).images.ctypes.data != place  # a view of it is held
    assert np.array_equal(part, kept[1:])
    del part
    places = set()
    for _ in range(6):
        places.add(next(batches).images.ctypes.data)
    assert place in places
    assert len(places) <= 4


def test_order_of_windows_is_frozen():
    # A run that is resumed must go on in the same order.
    store, manifest = small_set([20] * 5)
    reader = ShardReader(store, manifest, "train", window_bytes=4 * 2 * 4 * 5)
    assert next(reader.batches(4, 0)).ids.tolist() == [60, 46, 30, 15]


def test_samples_travel_and_classes_mix():
    store, manifest = small_set([85] * 3)
    reader = ShardReader(store, manifest, "train", window_bytes=4 * 2 * 40)
    batches = reader.batches(15, 0)
    ids = [next(batches).ids for _ in range(17)]
    assert all(len(set((batch % 3).tolist())) == 3 for batch in ids)
    together = np.concatenate(ids)
    assert np.abs(together - np.arange(255)).mean() > 255 / 5  # a full shuffle: a third


def test_the_order_of_the_digits_is_frozen(digits):
    # A run that is resumed must go on in the same order; the window's default is part of it.
    store, manifest = digits
    batch = next(ShardReader(store, manifest, "train").batches(8, 0))
    assert batch.ids.tolist() == [427, 1424, 1283, 1163, 442, 617, 883, 115]


def test_small_splits_are_read_once():
    store, manifest = small_set([4, 4])
    reader = ShardReader(store, manifest, "train")
    list(islice(reader.batches(3, 0), 20))
    reader.load()
    assert len(store.reads) == len(store.opened) == 2


def test_load_is_the_split_in_order(digits):
    store, manifest = digits
    images, labels = ShardReader(store, manifest, "train").load()
    assert images.shape == (1438, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == manifest.class_counts["train"]
    held_out, _ = ShardReader(store, manifest, "held-out").load()
    together = np.concatenate([images, held_out]).reshape(1797, 64)

    from sklearn.datasets import load_digits

    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, original))


def test_kept_arrays_cannot_be_changed_by_a_caller(digits):
    store, manifest = digits
    images, _ = ShardReader(store, manifest, "train").load()
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_impossible_batches_are_refused():
    store, manifest = small_set([4])
    reader = ShardReader(store, manifest, "train")
    with pytest.raises(UserError, match=r"batch_size is 10: it must be a multiple .* \(4\)"):
        reader.batches(10, 0, world_size=4)
    with pytest.raises(ValueError, match="rank 4 of 4"):
        reader.batches(8, 0, rank=4, world_size=4)
    with pytest.raises(UserError, match="the split 'held-out' of test has no samples"):
        ShardReader(store, manifest, "held-out")

from __future__ import annotations

import weakref
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from epg.data.manifest import Manifest, ShardInfo
from epg.data.order import permutation
from epg.data.reader import ShardReader
from epg.data.shard_format import END, encode_sample, sample_key
from epg.errors import UserError


class CountingStore:
    """Shards in memory; remembers which were read."""

    uri = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.opened: list[str] = []

    def open(self, key: str):
        import io

        self.opened.append(key)
        return io.BytesIO(self.objects[key])


def small_set(shard_sizes: list[int]) -> tuple[Any, Manifest]:
    """A `CountingStore` whose sample number i is an image of the value i, label i mod 3."""
    import hashlib

    store, shards, number = CountingStore(), [], 0
    for index, size in enumerate(shard_sizes):
        data = b""
        for _ in range(size):
            image = np.full((2, 2, 1), number, np.uint8)
            data += encode_sample(sample_key("train", number % 3, number), image, number % 3)
            number += 1
        key = f"s/train-{index:06d}.tar"
        store.objects[key] = data + END
        digest = hashlib.sha256(data + END).hexdigest()
        shards.append(ShardInfo(key, len(data + END), digest, size))
    counts = [len(range(label, number, 3)) for label in range(3)]
    manifest = Manifest(
        source="test",
        image_size=2,
        channels=1,
        classes=["a", "b", "c"],
        splits={"train": shards, "held-out": []},
        class_counts={"train": counts, "held-out": [0, 0, 0]},
    )
    return store, manifest


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=7)
#: A sample has 4 bytes: from one shard a group, over a few, to the whole split in memory.
readers = {"window_bytes": st.sampled_from([0, 40, 80, 160, 10**9])}


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


def test_start_reads_no_shard_before_its_group():
    store, manifest = small_set([4] * 6)
    reader = ShardReader(store, manifest, "train", window_bytes=2 * 2 * 16)
    batches = reader.batches(4, 0, start_step=4 + 6 * 1000)  # the last group of an epoch
    next(batches)
    batches.close()
    assert len(store.opened) <= 4  # its own group, and the next one ahead


@hypothesis_settings(max_examples=40)
@given(sizes, st.integers(0, 200), st.integers(0, 5))
def test_memory_holds_two_groups_within_the_window(shard_sizes, window_bytes, seed):
    held: list[int] = []  # bytes of each group that was loaded
    groups_alive: list[weakref.ref] = []

    class Spy(ShardReader):
        def _load_shards(self, indices):
            assert sum(group() is not None for group in groups_alive) <= 1
            arrays = super()._load_shards(indices)
            held.append(arrays.images.nbytes)
            groups_alive.append(weakref.ref(arrays.images))
            return arrays

    reader = Spy(*small_set(shard_sizes), "train", window_bytes=window_bytes)
    list(islice(reader.batches(3, seed), 40))
    largest = 4 * max(shard_sizes)
    if 4 * sum(shard_sizes) <= window_bytes:
        assert held == [4 * sum(shard_sizes)]
    else:
        assert all(size <= max(window_bytes // 2, largest) for size in held)
        # No group could have taken the shard after it: a group is as large as it may be.
        for epoch in range(3):
            groups = list(reader._shard_groups(seed, epoch))
            assert sorted(i for group in groups for i in group) == list(range(len(shard_sizes)))
            for group, following in pairwise(groups):
                together = 4 * sum(shard_sizes[i] for i in [*group, following[0]])
                assert together > window_bytes // 2


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
    assert len(store.opened) == 2


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

"""What `epg data` says of shards, the data report, and what is measured on the way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from epg.data.inspection import faults, some_samples, stored_sizes
from epg.data.pixels import PixelSums
from epg.data.reader import ShardReader
from epg.data.sharding import write_shards
from epg.data.sources import Image, open_source
from epg.documents import DocumentError
from epg.errors import UserError
from epg.runs.run import Run
from epg.stages.data_report import data_report, inspected, open_manifest
from epg.stages.shard import shard
from epg.store import open_store
from tests.toys.command import epg


def test_mean_and_deviation_are_those_of_all_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    parts = [PixelSums(), PixelSums(), PixelSums()]
    for number, image in enumerate(images):
        parts[number % 2].add(Image(image, shorter_side=60 + number))
    total = PixelSums.total(PixelSums.from_note(part.to_note()) for part in parts)
    found = total.statistics()
    flat = images.reshape(-1, 3).astype(np.float64) / 255
    assert found["mean"] == pytest.approx(flat.mean(0).tolist(), abs=1e-6)
    assert found["std"] == pytest.approx(flat.std(0).tolist(), abs=1e-6)
    assert total.sides == Counter({32: 4, 64: 3})
    assert PixelSums().statistics() == {}
    with pytest.raises(DocumentError, match="whole numbers"):
        PixelSums.from_note({**total.to_note(), "sums": [1.5]})


def test_the_manifest_says_what_was_measured(digits):
    store, manifest = digits
    images, _ = ShardReader(store, manifest, "train").load()
    assert manifest.report["pixels"]["mean"] == pytest.approx([images.mean() / 255], abs=1e-6)
    assert manifest.report["pixels"]["std"] == pytest.approx([images.std() / 255], abs=1e-6)


def test_samples_are_of_the_classes_asked_for(digits):
    store, manifest = digits
    samples = some_samples(store, manifest, [3, 7], 4)
    assert samples.labels.tolist() == [3] * 4 + [7] * 4
    every, labels = ShardReader(store, manifest, "train").load()
    assert np.array_equal(samples.images[:4], every[labels == 3][:4])
    assert np.array_equal(samples.images[4:], every[labels == 7][:4])


def test_sizes_are_counted(settings, photos, tmp_path):
    config = settings(channels=3, num_classes=2, encoding="png", image_size=16)
    source = open_source(f"folder:{photos}", config, 0)
    store = open_store(str(tmp_path / "store"))
    manifest = write_shards(source, config, 0, store, "shards/x")
    bars = stored_sizes(store, manifest)
    assert sum(bar.images for bar in bars) == manifest.num_samples("train")
    assert all(bar.low < bar.high for bar in bars)
    assert manifest.report["sides"] == {"16": 12}  # 24×20 pixels


@pytest.fixture
def spoilt(digits, tmp_path):
    """A copy of the digits' shards, to be spoilt."""
    store, manifest = digits
    own = open_store(str(tmp_path / "own"))
    for info in store.list():
        own.put_bytes(info.key, store.get_bytes(info.key))
    return own, manifest


def test_faults_are_found(spoilt):
    store, manifest = spoilt
    seen = []
    assert faults(store, manifest, True, lambda *counts: seen.append(counts)) == []
    assert seen[-1] == (len(seen), len(seen))
    info = manifest.shards("train")[1]
    data = store.get_bytes(info.key)
    flipped = bytearray(data)
    flipped[3000] ^= 1
    store.put_bytes(info.key, bytes(flipped))
    assert faults(store, manifest) == []
    [line] = faults(store, manifest, deep=True)
    assert line.startswith(f"{info.key}: SHA-256 is ")
    store.put_bytes(info.key, data[:-1])
    assert faults(store, manifest) == [
        f"{info.key} has {len(data) - 1:,} bytes, {len(data):,} are expected"
    ]
    store.delete(info.key)
    store.delete(info.index_key)
    assert faults(store, manifest) == [f"{info.key} is missing", f"{info.index_key} is missing"]


def test_page_shows_names_as_text(settings, photos, tmp_path):
    (photos / "pear").rename(photos / "<script>alert(1)<")
    (photos / "apple" / "no.png").write_bytes(b"text")
    config = settings(channels=3, num_classes=2, image_size=16, max_bad_fraction=0.5)
    source = open_source(f"folder:{photos}", config, 0)
    store = open_store(str(tmp_path / "store"))
    manifest = write_shards(source, config, 0, store, "shards/x")
    page = data_report(store, manifest)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "apple/no.png: not a JPEG, PNG or WEBP image" in page
    assert page.count("data:image/png;base64,") == 2


def test_command_line(tmp_path):
    run = Run.open("smoke", {}, str(tmp_path / "runs"), "one")
    record = shard(run)
    assert run.store.get_bytes(record.outputs["page"]["key"]).startswith(b"<!DOCTYPE html>")
    key = record.outputs["manifest"]["key"]
    for place in ("runs/one", f"runs/one/{key}"):
        shown = epg(tmp_path, "data", "inspect", place, "--out", "x.html", toys=False)
        assert shown.returncode == 0, shown.stderr
        assert "train images" in shown.stdout
        assert "1,438" in shown.stdout
    assert (tmp_path / "x.html").read_bytes() == run.store.get_bytes(record.outputs["page"]["key"])
    store, manifest = open_manifest(str(tmp_path / "runs" / "one" / key))
    inspected(store, manifest, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"end it in \.html"):
        inspected(store, manifest, tmp_path / "x.txt")
    with pytest.raises(UserError, match="no run with shards"):
        open_manifest(str(tmp_path / "nothing"))
    good = epg(tmp_path, "data", "verify", "runs/one", "--deep", toys=False)
    assert good.returncode == 0, good.stderr
    assert "all is well" in good.stdout
    run.store.delete(manifest.shards("train")[0].key)
    bad = epg(tmp_path, "data", "verify", "runs/one", toys=False)
    assert bad.returncode == 2
    assert "is missing" in bad.stderr

"""Sources in archives: webdataset's tars, Parquet, IDX; on a disk and in an object store."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PilImage
from webdataset import TarWriter

from epg.data import shard_plan
from epg.data.shard_plan import plan_shards
from epg.data.sharding import write_shards
from epg.data.sources import (
    BadImageError,
    Contents,
    Image,
    absolute_spec,
    changes_in_words,
    count_classes,
    fetching,
    open_source,
    parquet,
    parquet_file,
    source_contents,
    volumes,
)
from epg.errors import UserError
from epg.store import open_store
from tests.proxy import proxy_before
from tests.unit.data.conftest import BUCKET

COLOURS = {"apple": (200, 0, 0), "pear": (0, 200, 0), "plum": (90, 0, 120)}


def picture(label: int, number: int) -> bytes:
    """A PNG of one colour that tells class and number."""
    file = io.BytesIO()
    PilImage.new("RGB", (12, 10), (label * 50, number * 5, 99)).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, labels, kind="cls", first=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as writer:
        for number, label in enumerate(labels, first):
            said = label if kind == "cls" else {"label": label, "width": 12}
            writer.write({"__key__": f"{number:06d}", "png": picture(label, number), kind: said})


def write_parquet(path: Path, labels, *, nested=True, names=None, first=0, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [picture(label, n) for n, label in enumerate(labels, first)]
    images = [{"bytes": p, "path": f"{n}.png"} for n, p in enumerate(pictures)]
    texts = labels if names is None or names == "huggingface" else [names[n] for n in labels]
    table = pa.table({"image": images if nested else pictures, "label": texts})
    if names == "huggingface":
        features = {"label": {"names": list(COLOURS), "_type": "ClassLabel"}}
        said = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": said})
    pq.write_table(table, path, row_group_size=4, **options)


def write_idx(folder: Path, name: str, values: np.ndarray, packed=False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def write_mnist(folder: Path, train=30, test=10, packed=False, size=(12, 10)) -> None:
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 3
        pixels = np.full((count, *size), 0, np.uint8) + (labels * 50 + 1)[:, None, None]
        write_idx(folder, f"{part}-images-idx3-ubyte", pixels.astype(np.uint8), packed)
        write_idx(folder, f"{part}-labels-idx1-ubyte", labels, packed)


@pytest.fixture
def wanted(settings):
    return settings(channels=3, num_classes=3, mean=(0.5,), std=(0.5,))


def images_of(source) -> list[tuple[str, int, tuple[int, ...]]]:
    """Split, label and colour of every image."""
    found = []
    for item, image in source.read(source.items):
        assert isinstance(image, Image), image
        assert (image.pixels == image.pixels[0, 0]).all()
        found.append((item.split, item.label, tuple(image.pixels[0, 0].tolist())))
    return found


def coloured(split: str, labels, first=0) -> set[tuple[str, int, tuple[int, ...]]]:
    return {(split, k, (k * 50, n * 5, 99)) for n, k in enumerate(labels, first)}


LABELS = [0, 2, 1, 1, 0, 2, 2, 0, 1]
LATER = [1, 0, 2]


def test_an_object_store_is_asked_for_many_images_at_once(tmp_path, wanted, monkeypatch):
    """Four threads must meet before any is answered, though one decodes."""
    write_tar(tmp_path / "x.tar", [n % 3 for n in range(40)])
    monkeypatch.setattr(fetching, "available_cores", lambda: 1)
    source: Any = open_source(f"webdataset:{tmp_path}", wanted)
    meeting, read = threading.Barrier(4), volumes.LocalVolume.read

    def together(self, offset: int, length: int) -> bytes:
        meeting.wait(timeout=60)
        return read(self, offset, length)

    near = images_of(source)
    monkeypatch.setattr(volumes.LocalVolume, "read", together)
    monkeypatch.setattr(volumes.LocalVolume, "far", True)
    assert images_of(source) == near
    reading = source.read(source.items)
    monkeypatch.undo()
    next(reading)
    threads = threading.active_count()
    reading.close()
    assert threading.active_count() < threads


def write_split_set(kind: str, folder: Path) -> None:
    if kind == "webdataset":
        write_tar(folder / "train-000000.tar", LABELS[:5])
        write_tar(folder / "train-000001.tar", LABELS[5:], "json", first=5)
        write_tar(folder / "val-000000.tar", LATER, first=20)
    else:
        write_parquet(folder / "data/train-00000-of-00002.parquet", LABELS[:5])
        write_parquet(folder / "data/train-00001-of-00002.parquet", LABELS[5:], first=5)
        write_parquet(folder / "data/validation-00000-of-00001.parquet", LATER, first=20)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "idx"])
def test_sizes_are_known_before_anything_is_read(tmp_path, wanted, kind):
    if kind == "idx":
        write_mnist(tmp_path)
    else:
        write_split_set(kind, tmp_path)
    sizes = [item.size for item in open_source(f"{kind}:{tmp_path}", wanted, 0).items]
    lengths = [len(picture(label, n)) for n, label in enumerate(LABELS)]
    if kind == "webdataset":
        assert sorted(sizes[: len(LABELS)]) == sorted(lengths)
    elif kind == "parquet":  # means of row groups, with what Parquet itself takes
        assert sum(lengths) < sum(sizes[: len(LABELS)]) < sum(lengths) + 400 * len(LABELS)
    else:
        assert set(sizes) == {0}


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_splits_by_name(tmp_path, wanted, kind):
    write_split_set(kind, tmp_path)
    spec = f"{kind}:{tmp_path}"
    source = open_source(spec, wanted, 0)
    assert source.classes == ["0", "1", "2"]
    assert set(images_of(source)) == coloured("train", LABELS) | coloured("held-out", LATER, 20)
    assert [item.split for item in source.items] == ["train"] * 9 + ["held-out"] * 3
    assert [item.label for item in source.items] == sorted(LABELS) + sorted(LATER)
    assert list(source.items) == source.items[:] == [source.items[i] for i in range(12)]
    assert count_classes(spec) == 3
    assert absolute_spec(spec) == spec


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_one_set_is_split_by_the_seed(tmp_path, wanted, kind):
    labels = [n % 3 for n in range(30)]
    path = tmp_path / f"set.{'tar' if kind == 'webdataset' else 'parquet'}"
    (write_tar if kind == "webdataset" else write_parquet)(path, labels)
    held = []
    for seed in (0, 0, 1):
        source = open_source(f"{kind}:{path}", wanted, seed)
        every = images_of(source)
        assert {c for _, _, c in every} == {c for _, _, c in coloured("train", labels)}
        held.append([(k, c) for split, k, c in every if split == "held-out"])
        assert [k for k, _ in held[-1]] == [0, 0, 1, 1, 2, 2]
    assert held[0] == held[1] != held[2]


def test_names_of_classes(tmp_path, wanted):
    write_parquet(tmp_path / "a/x.parquet", LABELS, names="huggingface")
    write_parquet(tmp_path / "b/x.parquet", LABELS, names=list(COLOURS), nested=False)
    for name in "ab":
        assert open_source(f"parquet:{tmp_path / name}", wanted).classes == list(COLOURS)
    write_tar(tmp_path / "c/x.tar", LABELS)
    (tmp_path / "c/classes.txt").write_text("one\ntwo\n\nthree\n")
    assert open_source(f"webdataset:{tmp_path / 'c'}", wanted).classes == ["one", "two", "three"]
    (tmp_path / "c/classes.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"the label 2, but classes.txt has 2 names \(0 to 1\)"):
        count_classes(f"webdataset:{tmp_path / 'c'}")
    (tmp_path / "c/classes.txt").write_text("one\ntwo\none\n")
    with pytest.raises(UserError, match=r"each once; there more than once: 'one'"):
        count_classes(f"webdataset:{tmp_path / 'c'}")


def test_labels_that_have_holes_or_begin_at_one(tmp_path, wanted):
    write_tar(tmp_path / "x.tar", [1, 2, 3] * 2)
    source = open_source(f"webdataset:{tmp_path}", wanted)
    assert source.classes == ["1", "2", "3"]
    assert {item.label for item in source.items} == {0, 1, 2}
    write_tar(tmp_path / "x.tar", [0, 2, 5])
    with pytest.raises(UserError, match="labels go from 0 to 5, but no image has 1, 3, 4: add"):
        count_classes(f"webdataset:{tmp_path}")
    write_tar(tmp_path / "x.tar", [4, 4])
    with pytest.raises(UserError, match="only one class: '4'"):
        count_classes(f"webdataset:{tmp_path}")
    (tmp_path / "x.tar").unlink()
    with pytest.raises(UserError, match=r"no \.tar there; give the folder or URI"):
        count_classes(f"webdataset:{tmp_path}")


def test_members_that_are_no_samples_are_counted(tmp_path, wanted):
    path = tmp_path / "x.tar"
    with TarWriter(str(path)) as writer:
        for number, label in enumerate(LABELS):
            writer.write({"__key__": f"a.b/{number}", "png": picture(label, number), "cls": label})
        writer.write({"__key__": "alone", "png": b"x"})
        writer.write({"__key__": "unlabelled", "cls": 1})
        writer.write({"__key__": "m", "seg.png": b"x", "txt": "no"})
        writer.write({"__key__": "said", "png": picture(1, 9), "json": {"width": 3}})
    source = open_source(f"webdataset:{path}", wanted, 0)
    assert len(source.items) == len(LABELS)
    assert source.ignored == {
        "image without a label": 2,
        "label without an image": 1,
        "member that is no image and no label": 2,
    }


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"cls": b""}, "'x.cls' is no label: b''"),
        ({"cls": b"\xff\xfe"}, "'x.cls' is no label"),
        ({"json": b"[1, 2"}, "'x.json' is no label"),
        ({"json": b"7"}, "'x.json' is no label"),
        ({"cls": b"1" * 2_000_000}, "'x.cls' has 2,000,000 bytes, a label at most"),
        ({"png": b"x", "jpg": b"x", "cls": b"1"}, "'x' has two images, 'x.*' and 'x.*'"),
    ],
)
def test_wrong_samples_are_named(tmp_path, sample, said):
    with TarWriter(str(tmp_path / "x.tar"), encoder=False) as writer:
        writer.write({"__key__": "x", **sample})
    with pytest.raises(UserError, match=said) as caught:
        count_classes(f"webdataset:{tmp_path}")
    assert str(tmp_path / "x.tar") in str(caught.value)


def test_bad_images_in_archives_are_told_one_by_one(tmp_path, wanted):
    good = picture(1, 1)
    broken = {"empty": b"", "text": b"hello", "cut": good[:-9]}
    with TarWriter(str(tmp_path / "x.tar"), encoder=False) as writer:
        for key, data in {**broken, "good": good}.items():
            for label in b"012":
                writer.write({"__key__": f"{key}{label}", "png": data, "cls": bytes([label])})
    source = open_source(f"webdataset:{tmp_path}", wanted, 0)
    reasons = {
        item.name[:3]: image.reason if isinstance(image, BadImageError) else "fine"
        for item, image in source.read(source.items)
    }
    assert reasons == {
        "emp": "empty file",
        "tex": "not a JPEG, PNG or WEBP image",
        "cut": "truncated or damaged image",
        "goo": "fine",
    }


# --- what the data are -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_contents_are_bytes_not_times_or_places(tmp_path, kind):
    write_split_set(kind, tmp_path / "one")
    first = source_contents(f"{kind}:{tmp_path / 'one'}")
    again = Contents.from_bytes(first.to_bytes())
    assert again == first
    (tmp_path / "one").rename(tmp_path / "two")
    for path in (tmp_path / "two").rglob("*.*"):
        os.utime(path, (1, 1))
    moved = source_contents(f"{kind}:{tmp_path / 'two'}", [first])
    assert moved.digest == first.digest
    assert moved.indexes == first.indexes
    path = next(iter(sorted((tmp_path / "two").rglob("train*.*"))))
    (write_tar if kind == "webdataset" else write_parquet)(path, LABELS[:3])
    changed = source_contents(f"{kind}:{tmp_path / 'two'}", [moved])
    assert changed.digest != first.digest
    name = path.relative_to(tmp_path / "two").as_posix()
    assert changes_in_words(moved, changed) == [f"1 file changed ('{name}')"]


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_what_was_noted_is_not_read_again(tmp_path, wanted, kind, monkeypatch):
    write_split_set(kind, tmp_path)
    spec = f"{kind}:{tmp_path}"
    noted = source_contents(spec)
    read, seen = volumes.LocalVolume.read, []

    def noting(self, offset: int, length: int) -> bytes:
        seen.append(length)
        return read(self, offset, length)

    monkeypatch.setattr(volumes.LocalVolume, "read", noting)
    assert source_contents(spec, [noted]) == noted
    assert seen == []
    source = open_source(spec, wanted, 0, noted)
    if kind == "webdataset":
        assert seen == []
    assert set(images_of(source)) == coloured("train", LABELS) | coloured("held-out", LATER, 20)
    monkeypatch.undo()
    index = [(digest, data[:-20] + bytes(20)) for digest, data in noted.indexes]
    damaged = noted._replace(indexes=tuple(index))
    assert images_of(open_source(spec, wanted, 0, damaged)) == images_of(source)


# --- Parquet ---------------------------------------------------------------------------------


def test_rows_without_an_image_are_bad_images(tmp_path, wanted):
    table = pa.table({
        "image": [{"bytes": picture(k, 1), "path": None} for k in (0, 1, 2)] * 2 + [None, None],
        "label": [0, 1, 2, 0, 1, 2, 1, 1],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(f"parquet:{tmp_path}", wanted)
    bad = [str(image) for _, image in source.read(source.items) if isinstance(image, BadImageError)]
    assert bad == ["no bytes of an image in the row"] * 2


def test_wrong_parquet_files_are_named(tmp_path, wanted, monkeypatch):
    path = tmp_path / "x.parquet"
    for content, said in (
        (pa.table({"picture": [b"x"], "label": [1]}), "no column of images: it has 'picture', 'la"),
        (pa.table({"image": [b"x"], "y": [1]}), "no column of labels: it has 'image', 'y'; name"),
        (pa.table({"image": [b"x"], "label": [1.5]}), "'label' holds double; labels are whole num"),
        (pa.table({"image": [b"x"] * 2, "label": [1, None]}), "1 rows have no 'label'"),
    ):
        pq.write_table(content, path)
        with pytest.raises(UserError, match=said):
            count_classes(f"parquet:{tmp_path}")
    write_parquet(path, LABELS)
    monkeypatch.setattr(parquet_file, "_MOST_GROUP", 10)
    with pytest.raises(UserError, match=r"a row group of 0 MiB of images, .* smaller ones"):
        source_contents(f"parquet:{tmp_path}", on_progress=lambda *_: pytest.fail("it is read"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"no whole Parquet file \(.*\): get it again"):
        count_classes(f"parquet:{tmp_path}")


def test_row_groups_are_kept_within_a_bound(tmp_path, wanted):
    write_parquet(tmp_path / "x.parquet", [n % 3 for n in range(40)])
    source: Any = open_source(f"parquet:{tmp_path}", wanted)
    source._groups._most = 1
    assert len(images_of(source)) == 40
    assert len(source._groups._kept) == 1
    assert source._groups._reading == {}


@pytest.mark.parametrize("limit", [None, 7])
def test_each_row_group_of_a_large_set_is_read_once(tmp_path, wanted, limit, monkeypatch):
    labels = [n % 3 for n in range(120)]
    write_parquet(tmp_path / "a-train.parquet", labels)  # four rows a group
    write_parquet(tmp_path / "b-train.parquet", labels, first=120)
    write_parquet(tmp_path / "val.parquet", labels[:12], first=240)
    read, original = Counter[tuple[str, int]](), parquet_file.ImageFile.read_group

    def noting(file, group: int):
        read[file.volume.name, group] += 1
        return original(file, group)

    monkeypatch.setattr(parquet_file.ImageFile, "read_group", noting)
    monkeypatch.setattr(parquet, "_KEPT", 6_000)  # ten groups or so
    monkeypatch.setattr(shard_plan, "WINDOW_BYTES", 3_000)
    config = wanted.model_copy(update={"samples_per_shard": 50, "limit": limit})
    source = open_source(f"parquet:{tmp_path}", config)
    plan = plan_shards(source, config, 0)
    order = np.concatenate([shard.positions for shard in plan])
    assert sorted(order.tolist()) == list(range(len(source.items)))
    assert len(set(plan[0].positions.tolist()) & set(range(50))) < 40  # not as they lie there
    manifest = write_shards(source, config, 0, open_store(str(tmp_path / "s")), "x")
    assert manifest.num_samples("train") == (240 if limit is None else 21)
    assert set(read.values()) == {1}
    again = open_source(f"parquet:{tmp_path}", config)
    assert write_shards(again, config, 0, open_store(str(tmp_path / "t")), "x") == manifest


# --- IDX -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files(tmp_path, settings, packed):
    write_mnist(tmp_path, packed=packed)
    config = settings(num_classes=3, channels=1)
    source = open_source(f"idx:{tmp_path}", config, 0)
    assert source.classes == ["0", "1", "2"]
    assert [item.split for item in source.items] == ["train"] * 30 + ["held-out"] * 10
    for item, image in source.read(source.items):
        assert isinstance(image, Image)
        assert image.pixels.shape == (8, 8, 1)
        assert (image.pixels == item.label * 50 + 1).all()
    first = source_contents(f"idx:{tmp_path}")
    assert first.digest == source_contents(f"idx:{tmp_path}", [first]).digest
    assert count_classes(f"idx:{tmp_path}") == 3


def test_packed_files_may_lie_beside_the_unpacked_ones(tmp_path, settings):
    write_mnist(tmp_path / "MNIST" / "raw")
    alone = open_source(f"idx:{tmp_path}", settings(num_classes=3), 0)
    write_mnist(tmp_path / "MNIST" / "raw", packed=True)
    assert list(open_source(f"idx:{tmp_path}", settings(num_classes=3), 0).items) == list(
        alone.items
    )


def test_one_idx_set_is_split_by_the_seed(tmp_path, settings):
    write_mnist(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    source = open_source(f"idx:{tmp_path}", settings(num_classes=3), 0)
    assert [item.split for item in source.items] == ["train"] * 24 + ["held-out"] * 6


def test_wrong_idx_files_are_named(tmp_path, settings):
    config = settings(num_classes=3)

    def fails(said: str) -> None:
        def read() -> None:
            source = open_source(f"idx:{tmp_path}", config, 0)
            list(source.read(source.items))

        with pytest.raises(UserError, match=said) as caught:
            read()
        assert "\n" not in str(caught.value)

    fails("no IDX files there")
    write_mnist(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-5])
    fails("it ends 5 bytes too early: get it again, whole")
    images.write_bytes(whole + b"1")
    fails("more than the 3,600 bytes of shape")
    images.write_bytes(whole[:4] + struct.pack(">I", 2**32 - 1) + whole[8:])
    fails("at most 4,096 MiB are read")
    images.write_bytes(b"<html>404</html>")
    fails("it begins with 3c68746d, no IDX file")
    images.rename(tmp_path / "train-images-idx3-ubyte.gz")
    fails(r"damaged \(Not a gzipped file")
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    fails("'train-labels-idx1-ubyte' without its partner")
    write_idx(tmp_path, "train-images-idx3-ubyte", np.zeros((29, 4, 4), np.uint8))
    fails("29 images, but 30 labels beside it: get both again")


# --- an object store -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "idx"])
def test_archives_in_an_object_store_are_read_where_they_are(
    server, tmp_path, wanted, kind, monkeypatch
):
    server.set_environment(monkeypatch)
    if kind == "idx":
        write_mnist(tmp_path / "set")
    else:
        write_split_set(kind, tmp_path / "set")
    uri = server.store_uri(f"{BUCKET}/{kind}")
    store = open_store(uri)
    for path in sorted((tmp_path / "set").rglob("*")):
        if path.is_file():
            store.put_file(path.relative_to(tmp_path / "set").as_posix(), path)
    local, far = f"{kind}:{tmp_path / 'set'}", f"{kind}:{uri}"
    assert absolute_spec(far) == far
    found = source_contents(far)
    assert found.digest == source_contents(local).digest
    assert source_contents(far, [found]) == found
    config = wanted.model_copy(update={"source": far})
    shards = []
    for spec, noted in ((local, None), (far, None), (far, found)):
        source = open_source(spec, config, 0, noted)
        manifest = write_shards(source, config, 0, open_store(str(tmp_path / "s")), "x")
        shards.append(manifest.sha256)
    assert len(set(shards)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"set", "s"}  # nothing is unpacked
    with pytest.raises(UserError, match=r"there; give the folder or URI|no IDX files there"):
        count_classes(f"{kind}:{server.store_uri(f'{BUCKET}/nothing')}")


def test_archives_behind_a_bad_network(server, tmp_path, wanted, monkeypatch):
    monkeypatch.setattr("epg.data.sources.archives.PAUSE_SECONDS", 0.0)
    server.set_environment(monkeypatch)
    write_split_set("webdataset", tmp_path / "set")
    for path in sorted((tmp_path / "set").rglob("*.tar")):
        open_store(server.store_uri(f"{BUCKET}/bad")).put_file(path.name, path)
    near = f"webdataset:{tmp_path / 'set'}"
    expected = source_contents(near)
    source = open_source(near, wanted, 0, expected)
    shards = write_shards(source, wanted, 0, open_store(str(tmp_path / "near")), "x").sha256
    with proxy_before(server) as proxy:
        uri = proxy.server.store_uri(f"{BUCKET}/bad")
        proxy.next("reset", "", "cut", "", "503", "")  # a list, and a tar of each split
        noted = source_contents(f"webdataset:{uri}")
        assert noted.indexes == expected.indexes
        source = open_source(f"webdataset:{uri}", wanted, 0, noted)
        proxy.next("cut", "flip", "", "gateway 404", "", "flip")
        assert write_shards(source, wanted, 0, open_store(uri), "x").sha256 == shards
        assert proxy.met == ["reset", "cut", "503", "cut", "flip", "gateway 404", "flip"]
        proxy.always("flip")
        with pytest.raises(UserError, match=r"the bytes of '.*' are not those that were there"):
            write_shards(source, wanted, 0, open_store(str(tmp_path / "far")), "x")

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epg.data.manifest import Manifest
from epg.data.reader import ShardReader
from epg.data.sharding import write_part, write_shards
from epg.data.sources import Item, Source, open_source
from epg.data.sources.base import Reading
from epg.errors import UserError
from epg.store import open_store


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def folder_settings(settings, **changes):
    return settings(**{"channels": 3, "num_classes": 2, "samples_per_shard": 4, **changes})


BESIDE = ("", ".index", ".part.json")


def test_same_input_same_bytes(settings, tmp_path, digits):
    config = settings()
    for name in ("a", "b"):
        store = open_store(str(tmp_path / name))
        write_shards(open_source("digits", config, 0), config, 0, store, "shards/x/")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert list(content(tmp_path / "a" / "shards" / "x")) == [
        *[f"held-out-00000{i}.tar{beside}" for i in range(2) for beside in BESIDE],
        "manifest.json",
        *[f"train-00000{i}.tar{beside}" for i in range(5) for beside in BESIDE],
    ]
    _, manifest = digits
    assert Manifest.from_json((tmp_path / "a/shards/x/manifest.json").read_bytes()) == manifest


def test_bytes_are_frozen(digits):
    # Shards that are written again must equal those in a bucket; change FORMAT_VERSION otherwise.
    _, manifest = digits
    assert manifest.splits["train"][0].sha256 == (
        "35dd62b867e3c2c490b723e9ff778144d260eb075954a8967b1df872a0cfcbb6"
    )


def test_bytes_of_a_folder_are_frozen(settings, photos, store):
    Image.new("L", (9, 9), 7).save(photos / "apple" / "grey.png")
    (photos / "apple" / "zero.jpg").write_bytes(b"")
    config = folder_settings(settings, max_bad_fraction=0.3)
    manifest = write_shards(open_source(f"folder:{photos}", config, 0), config, 0, store, "s")
    shards = [*manifest.shards("train"), *manifest.shards("held-out")]
    assert [(shard.num_samples, shard.sha256) for shard in shards] == [
        (4, "8ba76fb914f4176cfa3388f518ca8f73f2b2201f7d149492cae9592812619141"),
        (4, "89f75189f8614f1246f65ed7f4df53d6f43c49b93d61dcbe447c80e676d651b8"),
        (2, "0ddbd0009051efaf832d17c58f2a3e5cfb6f2b3a7b1aaa9d27e8a5cef806e5a0"),
        (3, "a22a8ae71f4a2d096244fb3d86fb26965e20a69de55af5feee243d9ba199f773"),
    ]


def test_shards_mix_the_classes(digits):
    store, manifest = digits
    _, labels = ShardReader(store, manifest, "train").load()
    assert all(len(set(labels[first : first + 50].tolist())) == 10 for first in range(0, 1400, 50))


def test_webdataset_reads_our_shards(digits, tmp_path):
    from webdataset import WebDataset

    store, manifest = digits
    paths = []
    for shard in manifest.shards("train"):
        path = tmp_path / Path(shard.key).name
        store.get_file(shard.key, path)
        paths.append(str(path))
    dataset = WebDataset(paths, shardshuffle=False).decode().to_tuple("npy", "cls", "__key__")
    samples = list(dataset)
    images, labels = ShardReader(store, manifest, "train").load()
    assert np.array_equal(np.stack([image for image, _, _ in samples]), images)
    assert [label for _, label, _ in samples] == labels.tolist()
    assert len({key for _, _, key in samples}) == 1438


def test_progress_reaches_the_end(settings, store):
    seen = []
    config = settings()
    source = open_source("digits", config, 0)
    write_shards(source, config, 0, store, "s", lambda *call: seen.append(call))
    assert seen[-1] == (1797, 1797, {"skipped": 0.0})
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


class StopAfter:
    """A source that is interrupted once it has given so many images."""

    def __init__(self, source: Source, images: int) -> None:
        self.spec, self.classes = source.spec, source.classes
        self.items, self.ignored = source.items, source.ignored
        self._source, self.left, self.given = source, images, 0

    def read(self, items: Iterable[Item]) -> Reading:
        for pair in self._source.read(items):
            if self.given == self.left:
                raise KeyboardInterrupt
            self.given += 1
            yield pair


@pytest.mark.parametrize("images", [0, 1, 299, 300, 301, 1000, 1796])
def test_interrupted_sharding_goes_on(settings, tmp_path, images):
    config = settings()
    store = open_store(str(tmp_path / "cut"))
    source = open_source("digits", config, 0)
    with pytest.raises(KeyboardInterrupt):
        write_shards(StopAfter(source, images), config, 0, store, "shards/x")
    assert not (tmp_path / "cut/shards/x/manifest.json").exists()
    again = StopAfter(source, -1)
    manifest = write_shards(again, config, 0, store, "shards/x")
    assert manifest.num_samples("train") == 1438
    finished = max(n for n in (0, 300, 600, 900, 1200, 1438, 1738) if n <= images)
    assert again.given == 1797 - finished
    write_shards(source, config, 0, open_store(str(tmp_path / "whole")), "shards/x")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_unreadable_note_and_lost_shard_are_written_again(settings, tmp_path):
    config = settings()
    source = open_source("digits", config, 0)
    store = open_store(str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        write_shards(StopAfter(source, 1000), config, 0, store, "s")
    store.put_bytes("s/train-000000.tar.part.json", b"{torn")
    store.delete("s/train-000001.tar")
    store.put_bytes("s/train-000002.tar", b"cut")
    write_shards(source, config, 0, store, "s")
    write_shards(source, config, 0, open_store(str(tmp_path / "whole")), "s")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_store_that_is_away_is_told_and_nothing_is_written_anew(settings, tmp_path, monkeypatch):
    config = settings()
    source = open_source("digits", config, 0)
    store = open_store(str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        write_shards(StopAfter(source, 1000), config, 0, store, "s")

    def away(*_: object) -> bytes:
        raise UserError("S3 at http://s3:9000: no answer in time")

    monkeypatch.setattr(store, "open", away)
    again = StopAfter(source, -1)
    with pytest.raises(UserError, match="no answer in time"):
        write_shards(again, config, 0, store, "s")
    assert again.given == 0


def test_conversions_and_bad_images_are_counted(settings, photos, store):
    Image.new("L", (9, 9), 7).save(photos / "apple" / "grey.png")
    (photos / "apple" / "zero.jpg").write_bytes(b"")
    (photos / "pear" / "words.png").write_text("words")
    (photos / "pear" / "cut.png").write_bytes((photos / "pear" / "1.png").read_bytes()[:-30])
    config = folder_settings(settings, max_bad_fraction=0.3)
    source = open_source(f"folder:{photos}", config, 0)
    manifest = write_shards(source, config, 0, store, "s")
    assert manifest.report["converted"] == {"grey to RGB": 1}
    assert manifest.report["skipped"] == {
        "empty file": 1,
        "not a JPEG, PNG or WEBP image": 1,
        "truncated or damaged image": 1,
    }
    assert "apple/zero.jpg: empty file" in manifest.report["skipped_images"]
    counts = np.sum([manifest.class_counts["train"], manifest.class_counts["held-out"]], axis=0)
    assert counts.tolist() == [7, 6]
    assert manifest.source == f"folder:{photos}"
    batches = ShardReader(store, manifest, "train").batches(5, 0)
    for batch in islice(batches, 9):
        grey = (batch.images == 7).all(axis=(1, 2, 3))
        assert ((batch.images[:, 0, 0, 1] == 100 * batch.labels) | grey).all()


def test_threads_change_nothing(settings, photos, tmp_path, monkeypatch):
    config = folder_settings(settings)
    for threads in (1, 7):
        monkeypatch.setattr(
            "epg.data.sources.fetching.available_cores", lambda threads=threads: threads
        )
        source = open_source(f"folder:{photos}", config, 0)
        write_shards(source, config, 0, open_store(str(tmp_path / str(threads))), "s")
    assert content(tmp_path / "1") == content(tmp_path / "7")


def test_too_many_bad_images_stop(settings, photos, store):
    for i in range(4):
        (photos / "pear" / f"bad\n{i}.png").write_bytes(b"")
    config = folder_settings(settings, samples_per_shard=100)
    with pytest.raises(UserError) as caught:
        write_shards(open_source(f"folder:{photos}", config, 0), config, 0, store, "s")
    message = str(caught.value)
    assert f"folder:{photos}: " in message
    assert "of 16 in all) cannot be used, more than data.max_bad_fraction=0.001 allows" in message
    assert "0.png': empty file" in message or "1.png': empty file" in message
    assert "mend or remove them, or skip them by --set data.max_bad_fraction=0." in message
    assert "\n" not in message
    assert store.size("s/manifest.json") is None
    bad = int(message.split(": ")[1].split(" of ")[0])
    enough = float(message.rpartition("=")[2])
    assert enough >= bad / 16


def test_advice_on_bad_images_needs_following_once(settings, photos, store):
    for name in ("0.png", "1.png", "2.png", "3.png"):
        (photos / "pear" / name).write_bytes(b"")
    config = folder_settings(settings, samples_per_shard=1)  # each bad image in another shard
    with pytest.raises(UserError) as caught:
        write_shards(open_source(f"folder:{photos}", config, 0), config, 0, store, "s")
    assert "4 of the 12 images read (of 12 in all)" in str(caught.value)
    enough = float(str(caught.value).rpartition("=")[2])
    config = folder_settings(settings, samples_per_shard=1, max_bad_fraction=enough)
    write_shards(open_source(f"folder:{photos}", config, 0), config, 0, store, "s")


def test_class_without_usable_images(settings, photos, store):
    for path in (photos / "pear").iterdir():
        path.write_bytes(b"no image")
    config = folder_settings(settings, max_bad_fraction=1.0)
    with pytest.raises(UserError, match="no usable image in the train split for 'pear'; add"):
        write_shards(open_source(f"folder:{photos}", config, 0), config, 0, store, "s")


def test_shard_of_bad_images_only_is_left_out(settings, photos, store):
    config = folder_settings(settings, samples_per_shard=1, max_bad_fraction=0.5)
    source = open_source(f"folder:{photos}", config, 0)
    bad = next(item for item in source.items if item.split == "train")
    (photos / bad.name).write_bytes(b"")
    manifest = write_shards(source, config, 0, store, "s")
    assert len(manifest.shards("train")) == 9
    assert ShardReader(store, manifest, "train").load()[0].shape == (9, 8, 8, 3)


def test_notes_are_json_and_stay(settings, photos, store):
    config = folder_settings(settings)
    source = open_source(f"folder:{photos}", config, 0)
    manifest = write_shards(source, config, 0, store, "s")
    for shard in [*manifest.shards("train"), *manifest.shards("held-out")]:
        note = json.loads(store.get_bytes(f"{shard.key}.part.json"))
        assert note["shard"]["sha256"] == shard.sha256
        assert note["num_items"] == shard.num_samples


@pytest.mark.parametrize("lost", ["train-000002.tar", "train-000002.tar.index"])
def test_shard_that_is_lost_from_a_finished_set_is_written_alone(settings, tmp_path, lost):
    config = settings()
    source = open_source("digits", config, 0)
    store = open_store(str(tmp_path / "set"))
    whole = write_shards(source, config, 0, store, "s")
    before = content(tmp_path / "set")
    store.delete(f"s/{lost}")
    again = StopAfter(source, -1)
    assert write_shards(again, config, 0, store, "s") == whole
    assert again.given == 300
    assert content(tmp_path / "set") == before


def test_note_of_another_plan_is_not_believed(settings, tmp_path):
    source = open_source("digits", settings(), 0)
    store = open_store(str(tmp_path / "set"))
    write_shards(source, settings(), 0, store, "s")
    config = settings(samples_per_shard=900)
    manifest = write_shards(source, config, 0, store, "s")
    assert [s.num_samples for s in manifest.shards("train")] == [900, 538]
    # As many samples, but other ones: what another version of epg may plan.
    fresh = write_shards(source, config, 1, open_store(str(tmp_path / "fresh")), "s")
    assert fresh.sha256 != manifest.sha256
    assert write_shards(source, config, 1, store, "s") == fresh


def test_full_disk_is_one_line(settings, store, monkeypatch):
    import errno

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = settings()
    source = open_source("digits", config, 0)
    monkeypatch.setattr("epg.store.files.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*-000000.tar: no space left on the disk"):
        write_shards(source, config, 0, store, "s")
    monkeypatch.undo()
    assert not list(store.list("s/"))


@pytest.mark.parametrize("parts", [1, 2, 3, 20])
def test_parts_make_the_same_set(settings, tmp_path, parts):
    config = settings()
    source = open_source("digits", config, 0)
    store = open_store(str(tmp_path / "parts"))
    for part in range(parts):
        write_part(source, config, 0, store, "s", part, parts)
    again = StopAfter(source, 0)  # gathering reads no image
    write_shards(again, config, 0, store, "s")
    write_shards(source, config, 0, open_store(str(tmp_path / "whole")), "s")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_finished_parts_of_another_number_are_kept(settings, tmp_path):
    config = settings()
    source = open_source("digits", config, 0)
    store = open_store(str(tmp_path / "cut"))
    write_part(source, config, 0, store, "s", 1, 2)  # the last four of seven shards
    done = sum(1 for info in store.list("s/") if info.key.endswith(".tar"))
    again = StopAfter(source, -1)
    for part in range(3):
        write_part(again, config, 0, store, "s", part, 3)
    assert done == 4
    assert again.given == 900  # the other three, of 300 images each
    write_shards(again, config, 0, store, "s")
    write_shards(source, config, 0, open_store(str(tmp_path / "whole")), "s")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of five photographs, some JPEG, some PNG, one grey."""
    from sklearn.datasets import load_sample_images

    root = tmp_path / "pictures"
    for label, picture in enumerate(load_sample_images().images):
        (root / f"c{label}").mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(picture[20 * i : 20 * i + 70 + i, 30 * i : 30 * i + 90])
            path = root / f"c{label}" / f"{i}"
            (image.convert("L") if i == 4 else image).save(path, "PNG" if i == 3 else "JPEG")
    return root


@pytest.mark.parametrize("crop", ["exact", "fast"])
@pytest.mark.parametrize("encoding", ["png", "jpeg", "passthrough"])
def test_encodings_hold_the_same_images(settings, pictures, store, tmp_path, encoding, crop):
    from webdataset import WebDataset

    common = {"image_size": 32, "samples_per_shard": 3, "crop": crop}
    sets = {}
    for name in ("raw", encoding):
        config = folder_settings(settings, encoding=name, **common)
        source = open_source(f"folder:{pictures}", config, 0)
        manifest = write_shards(source, config, 0, store, name)
        assert Manifest.from_json(manifest.to_json()) == manifest
        assert (manifest.encoding, manifest.crop) == (name, crop)
        sets[name] = ShardReader(store, manifest, "train").load()
        streamed = ShardReader(store, manifest, "train", window_bytes=0).batches(8, 0)
        batch = next(streamed)
        streamed.close()
        assert np.array_equal(batch.images, sets[name][0][batch.ids])
    difference = np.abs(sets["raw"][0].astype(int) - sets[encoding][0])
    assert np.array_equal(sets["raw"][1], sets[encoding][1])
    if encoding == "jpeg":
        assert 0 < difference.mean() < 3  # quality 95, full chroma
        assert difference.max() < 40
    else:
        assert not difference.any()
    # Others read them, too: webdataset, and GNU tar.
    paths = [str(tmp_path / "store" / shard.key) for shard in manifest.shards("train")]
    found = list(WebDataset(paths, shardshuffle=False).decode("rgb8").rename(image="jpg;png"))
    assert [sample["cls"] for sample in found] == sets[encoding][1].tolist()
    if encoding == "png":
        assert np.array_equal(np.stack([sample["image"] for sample in found]), sets["png"][0])
    listed = subprocess.run(["tar", "-tvf", paths[0]], capture_output=True, text=True, check=True)
    endings = {line.rpartition(".")[2] for line in listed.stdout.splitlines()}
    assert endings <= {"jpg", "png", "cls"}
    assert listed.stderr == ""


def test_size_of_shards_is_bytes(settings, pictures, store):
    sizes = [path.stat().st_size for path in pictures.rglob("*/?")]
    for encoding, most in (("raw", 12_000), ("passthrough", sum(sizes) // 3)):
        config = folder_settings(
            settings, image_size=32, samples_per_shard=None, shard_bytes=most, encoding=encoding
        )
        source = open_source(f"folder:{pictures}", config, 0)
        manifest = write_shards(source, config, 0, store, encoding)
        shards = manifest.shards("train")
        assert len(shards) > 1
        assert all(shard.size <= most + 1024 for shard in shards)  # the end mark comes on top
        assert all(shard.size > most - max(sizes) - 4096 for shard in shards[:-1])


def test_index_says_where_images_are(digits):
    store, manifest = digits
    for shard in manifest.shards("train"):
        tar = store.get_bytes(shard.key)
        lines = store.get_bytes(shard.index_key).decode().splitlines()
        assert len(lines) == shard.num_samples + 1
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            members = opened.getmembers()
        for line, member in zip(lines[1:], members[::2], strict=True):
            name, offset, length, label, crc32 = line.split("\t")
            assert (name, int(offset), int(length)) == (
                member.name,
                member.offset_data,
                member.size,
            )
            content = tar[int(offset) : int(offset) + int(length)]
            assert f"{zlib.crc32(content):08x}" == crc32
            assert member.name.startswith(f"train/{int(label):04d}-")


def test_pixels_of_no_file_fill_a_shard_that_passes_files_through(settings, store):
    config = settings(samples_per_shard=None, shard_bytes=1_000_000, encoding="passthrough")
    manifest = write_shards(open_source("digits", config, 0), config, 0, store, "s")
    assert [s.num_samples for s in manifest.shards("train")] == [473, 473, 473, 19]
    assert all(s.size < 1_000_000 for s in manifest.shards("train"))

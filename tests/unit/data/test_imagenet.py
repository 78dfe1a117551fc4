"""ImageNet in its own layout, made small by benchmarks/make_imagenet.py, and what can be wrong."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from benchmarks.make_imagenet import Maker, make, photographs
from epg.data.sharding import write_shards
from epg.data.sources import (
    Image,
    count_classes,
    imagenet,
    open_source,
    source_contents,
    volumes,
)
from epg.data.sources.archives import index_of
from epg.data.sources.imagenet import COUNTS, TRAIN, VAL
from epg.data.sources.imagenet_classes import lemmas, short_names
from epg.data.sources.imagenet_truth import DEVKIT, IDS, META, TEXTS
from epg.data.sources.index import Index
from epg.data.sources.volumes import LocalVolume
from epg.errors import UserError
from epg.store import open_store
from tests.unit.data.conftest import BUCKET

CLASSES, PER_CLASS, VAL_PER_CLASS, SIDE = 5, 12, 2, 48
SYNSETS = list(lemmas())[:CLASSES]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of twelve and two images; read only."""
    folder = tmp_path_factory.mktemp("imagenet") / "set"
    list(make(folder, CLASSES, PER_CLASS, VAL_PER_CLASS, SIDE, seed=0))
    return folder


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return shutil.copytree(made, tmp_path / "own")


@pytest.fixture
def wanted(settings):
    return settings(image_size=16, channels=3, num_classes=CLASSES, samples_per_shard=40)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def rewrite(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    content = change(members(path))
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name.rstrip("*"))  # a star makes one more of a name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def packed(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name.rstrip("*"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


# --- what is right ---------------------------------------------------------------------------


def test_tables_are_those_of_timm():
    found = importlib.util.find_spec("timm")
    assert found is not None
    assert found.submodule_search_locations
    tables = Path(found.submodule_search_locations[0]) / "data" / "_info"
    synsets = (tables / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    words = dict(
        line.split("\t", 1)
        for line in (tables / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    )
    assert list(lemmas().items()) == [(synset, words[synset]) for synset in synsets]
    assert synsets == sorted(synsets)
    names = short_names(synsets)
    assert len(set(names)) == 1000
    assert names[0] == "tench"
    assert names[134] == "crane (n02012849)"
    assert short_names(["n99999999"]) == ["n99999999"]


def test_every_image_has_its_class(made, wanted):
    source = open_source(f"imagenet:{made}", wanted, 0)
    assert source.classes == short_names(SYNSETS)
    train = [item for item in source.items if item.split == "train"]
    assert Counter(item.label for item in train) == dict.fromkeys(range(CLASSES), PER_CLASS)
    assert all(item.name.startswith(f"{SYNSETS[item.label]}/") for item in train)
    # Held-out labels are those that the maker gave, by numbers which are in another order.
    maker = Maker(photographs(), SIDE, 0)
    held_out = [item for item in source.items if item.split == "held-out"]
    assert Counter(item.label for item in held_out) == dict.fromkeys(range(CLASSES), VAL_PER_CLASS)
    files = members(made / VAL)
    for item in held_out:
        number = int(item.name[-13:-5])
        odd = "cmyk" if number == len(held_out) else ""
        name = item.name.removeprefix("val/")
        assert files[name] == maker.file(item.label, PER_CLASS + number, odd)
    assert count_classes(f"imagenet:{made}") == CLASSES


def test_planted_oddities_are_converted_and_counted(made, wanted, tmp_path):
    source = open_source(f"imagenet:{made}", wanted, 0)
    for item, image in source.read(source.items):
        assert isinstance(image, Image), (item, image)
    store = open_store(str(tmp_path))
    manifest = write_shards(source, wanted, 0, store, "x")
    assert manifest.report["converted"] == {
        "CMYK to RGB": CLASSES + 1,
        "EXIF orientation not applied": CLASSES,
        "grey to RGB": CLASSES,
    }
    kinds = Counter(data[:2] for data in members_of_classes(made).values())
    assert kinds == {b"\xff\xd8": CLASSES * PER_CLASS - 1, b"\x89P": 1}


def members_of_classes(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for data in members(folder / TRAIN).values():
        with tarfile.open(fileobj=io.BytesIO(data)) as inner:
            found |= {m.name: inner.extractfile(m).read() for m in inner}  # type: ignore[union-attr]
    return found


def test_images_are_read_at_their_offsets(made):
    volume = LocalVolume(made / TRAIN, TRAIN)
    index = index_of(volume, imagenet.index_train, None)
    files = members_of_classes(made)
    for name, offset, length in zip(index.names, index.offsets, index.lengths, strict=True):
        data = volume.read(int(offset), int(length))
        assert data == files[name.partition("/")[2]]
    again = Index.from_bytes(index.to_bytes(), volume.size)
    assert again is not None
    assert again.to_bytes() == index.to_bytes()
    assert list(again.names) == list(index.names)
    assert Index.from_bytes(index.to_bytes(), volume.size // 2) is None
    assert Index.from_bytes(b"garbage", volume.size) is None


def test_the_same_arguments_make_the_same_files(made, tmp_path):
    list(make(tmp_path, CLASSES, PER_CLASS, VAL_PER_CLASS, SIDE, seed=0))
    for path in made.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    list(make(tmp_path, CLASSES, PER_CLASS, VAL_PER_CLASS, SIDE, seed=1))
    assert (tmp_path / TRAIN).read_bytes() != (made / TRAIN).read_bytes()


@pytest.mark.parametrize("text", TEXTS)
def test_ground_truth_as_text(own, wanted, text):
    right = open_source(f"imagenet:{own}", wanted, 0)
    truth = {
        int(item.name[-13:-5]): SYNSETS[item.label]
        for item in right.items
        if item.split == "held-out"
    }
    (own / DEVKIT).unlink()
    (own / IDS).unlink()
    lines = [f"{synset}" for _, synset in sorted(truth.items())]
    if text == "val_map.txt":
        lines = [f"ILSVRC2012_val_{n:08d}.JPEG {s}" for n, s in truth.items()]
    if text.endswith(".csv"):
        lines = [f"ILSVRC2012_val_{n:08d},{s} 1 2 3 4" for n, s in truth.items()]
        lines = ["ImageId,PredictionString", *lines]
    (own / text).write_text("\n".join(lines) + "\n")
    assert list(open_source(f"imagenet:{own}", wanted, 0).items) == list(right.items)


def test_ids_and_their_meaning_may_lie_beside_the_tars(own, wanted):
    right = open_source(f"imagenet:{own}", wanted, 0)
    with tarfile.open(own / DEVKIT) as archive:
        meta = archive.extractfile(f"ILSVRC2012_devkit_t12/data/{META}")
        assert meta is not None
        (own / META).write_bytes(meta.read())
    (own / DEVKIT).unlink()
    assert list(open_source(f"imagenet:{own}", wanted, 0).items) == list(right.items)
    (own / META).unlink()
    fails(own, wanted, "holds numbers of the devkit's own, which its meta.mat explains: put meta")
    (own / IDS).unlink()
    fails(own, wanted, f"nothing tells the classes of the validation images: put {DEVKIT} there")


def test_a_part_for_a_trial(made, wanted):
    def part(classes=None, limit=None, num_classes=CLASSES):
        changed = {"classes": classes, "limit": limit, "num_classes": num_classes}
        return open_source(f"imagenet:{made}", wanted.model_copy(update=changed), 0)

    whole = part()
    few = part(limit=3)
    assert Counter((i.split, i.label) for i in few.items) == {
        **{("train", label): 3 for label in range(CLASSES)},
        **{("held-out", label): 2 for label in range(CLASSES)},
    }
    two = part(classes=["goldfish", 4], num_classes=2)
    assert two.classes == [whole.classes[1], whole.classes[4]]
    assert [i.name for i in two.items] == [i.name for i in whole.items if i.label in (1, 4)]
    assert [i.name for i in part(classes=(SYNSETS[4], "1"), num_classes=2).items] == [
        i.name for i in two.items
    ]
    every = {(i.split, i.label, i.number): image for i, image in whole.read(whole.items)}
    for item, image in two.read(two.items):
        same = every[item.split, (1, 4)[item.label], item.number]
        assert isinstance(image, Image)
        assert isinstance(same, Image)
        assert np.array_equal(image.pixels, same.pixels)
    with pytest.raises(UserError, match=r"data.classes has 'goldfsh': .*did you mean 'goldfish'"):
        part(classes=["goldfsh", "tench"])
    with pytest.raises(UserError, match=r"data.classes has '7': .* numbers from 0 to 4"):
        part(classes=[7, 1])
    with pytest.raises(UserError, match=r"1 class of imagenet:.*; at least 2 are needed"):
        part(classes=[1])


def test_from_an_object_store_it_is_read_through_once(made, wanted, server, tmp_path, monkeypatch):
    server.set_environment(monkeypatch)
    uri = server.store_uri(f"{BUCKET}/imagenet")
    for path in made.iterdir():
        open_store(uri).put_file(path.name, path)
    read, ranges = volumes.StoredVolume.read, Counter[str]()

    def noting(self, offset: int, length: int) -> bytes:
        ranges[self.name] += length
        return read(self, offset, length)

    monkeypatch.setattr(volumes.StoredVolume, "read", noting)
    found = source_contents(f"imagenet:{uri}")
    assert found.digest == source_contents(f"imagenet:{made}").digest
    assert ranges[TRAIN] == (made / TRAIN).stat().st_size
    ranges.clear()
    source = open_source(f"imagenet:{uri}", wanted, 0, found)
    assert TRAIN not in ranges
    assert VAL not in ranges
    far = write_shards(source, wanted, 0, open_store(str(tmp_path / "far")), "x")
    near = open_source(f"imagenet:{made}", wanted, 0)
    assert (
        far.sha256 == write_shards(near, wanted, 0, open_store(str(tmp_path / "near")), "x").sha256
    )
    assert ranges[TRAIN] < (made / TRAIN).stat().st_size


def test_an_image_that_is_altered_after_the_look_is_told(own, wanted, monkeypatch):
    monkeypatch.setattr("epg.data.sources.archives.PAUSE_SECONDS", 0.0)
    found = source_contents(f"imagenet:{own}")
    source = open_source(f"imagenet:{own}", wanted, 0, found)
    item = source.items[7]
    assert item.size > 0
    [(_, image)] = source.read([item])
    assert isinstance(image, Image)
    data = bytearray((own / TRAIN).read_bytes())
    index = index_of(LocalVolume(own / TRAIN, TRAIN), imagenet.index_train, None)
    data[int(index.offsets[7]) + item.size // 2] ^= 1
    (own / TRAIN).write_bytes(data)
    with pytest.raises(UserError, match=f"{TRAIN}: the bytes of '{item.name}' are not those that"):
        list(source.read([item]))


# --- what is wrong ---------------------------------------------------------------------------


def fails(folder: Path, config, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_source(f"imagenet:{folder}", config, 0)
    assert "\n" not in str(caught.value)


def test_tars_that_are_missing_or_changed_places(own, wanted):
    (own / TRAIN).rename(own / "x")
    (own / VAL).rename(own / TRAIN)
    (own / "x").rename(own / VAL)
    fails(own, wanted, f"'ILSVRC2012_val_00000001.JPEG' in it is no .*: it is {VAL} under another")
    shutil.copy(own / VAL, own / TRAIN)
    fails(own, wanted, f"'n01440764.tar' in it is no validation .*: it is {TRAIN} under another")
    (own / VAL).unlink()
    fails(own, wanted, f"no {VAL} there: put it beside the other tar")
    (own / TRAIN).unlink()
    fails(own, wanted, "neither .* there; images in folders, as Kaggle's, are read by folder:PATH")
    fails(own / "nothing", wanted, "no such folder; give the folder or URI that has")


def test_a_half_downloaded_tar(own, wanted):
    whole = (own / TRAIN).read_bytes()
    for part in (0.1, 0.5, 0.9):
        (own / TRAIN).write_bytes(whole[: int(part * len(whole))])
        fails(own, wanted, f"{TRAIN}: the archive is cut after .* get it again, whole")


def test_a_class_that_is_missing_twice_there_empty_or_mixed(own, wanted, made):
    def spoil(change, said: str) -> None:
        shutil.copy(made / TRAIN, own / TRAIN)
        rewrite(own / TRAIN, change)
        fails(own, wanted, said)

    first, second = f"{SYNSETS[0]}.tar", f"{SYNSETS[1]}.tar"
    spoil(
        lambda tars: {k: v for k, v in tars.items() if k != first},
        "it has images of 'n01440764', of which ILSVRC2012_img_train.tar has none"
        "|4 classes, 48 training and 10 validation images; counts.json has 5, 60 and 10",
    )
    spoil(lambda tars: {**tars, f"{first}*": tars[first]}, f"{first} is in it twice")
    spoil(lambda tars: {**tars, first: packed({})}, f"{first} has no images")
    spoil(lambda tars: {**tars, first: tars[second]}, f"{first} has '.*', an image of another cl")
    spoil(lambda tars: {**tars, first: gzip.compress(tars[first])}, "damaged at byte 512")
    spoil(lambda tars: {**tars, "readme.txt": b"hello"}, "'readme.txt' in it is no tar of a class")
    spoil(
        lambda tars: {**tars, first: packed({"../../x.JPEG": b"1", "/y.JPEG": b"2"})},
        "5 classes, 50 training and 10 validation images",
    )
    again = members_of_classes(made)
    twice = {name: data for name, data in again.items() if name.startswith(SYNSETS[0])}
    twice = {**twice, f"{SYNSETS[0]}_2.JPEG*": b"again"}
    shutil.copy(made / TRAIN, own / TRAIN)
    rewrite(own / TRAIN, lambda tars: {**tars, first: packed(twice)})
    source = open_source(f"imagenet:{own}", wanted, 0)
    assert source.ignored == {"image whose name is there twice in its class": 1}


def test_nested_archives_are_images_that_cannot_be_read(own, wanted):
    """A class's tar is looked into, and nothing within it: no bomb goes off."""
    bomb = gzip.compress(bytes(10_000_000))
    name = f"{SYNSETS[0]}.tar"
    inner = {f"{SYNSETS[0]}_{n}.JPEG": bomb for n in range(PER_CLASS)} | {"a.tar": packed({})}
    rewrite(own / TRAIN, lambda tars: {**tars, name: packed(inner)})
    source = open_source(f"imagenet:{own}", wanted, 0)
    assert source.ignored == {"member that is no image by its name": 1}
    results = list(source.read(source.items[:3]))
    assert [str(image) for _, image in results] == ["not a JPEG, PNG or WEBP image"] * 3


def test_validation_images_and_their_truth_belong_together(own, wanted, made):
    def spoil(change, said: str) -> None:
        shutil.copy(made / VAL, own / VAL)
        rewrite(own / VAL, change)
        fails(own, wanted, said)

    name = "ILSVRC2012_val_00000003.JPEG"
    spoil(
        lambda files: {k: v for k, v in files.items() if k != name},
        f"9 images, but {DEVKIT} tells of 10; image 3 is missing: they must be of one set",
    )
    spoil(lambda files: {**files, f"{name}*": b"1"}, f"{name} is in it twice")
    spoil(lambda files: {**files, "ILSVRC2012_val_00000011.JPEG": b"1"}, "11 images, but .* of 10")
    shutil.copy(made / VAL, own / VAL)
    (own / DEVKIT).unlink()
    (own / TEXTS[0]).write_text("n01440764\n" * 9 + "n09999999\n")
    fails(own, wanted, "has images of 'n09999999', of which")
    (own / TEXTS[0]).write_text("n01440764\n" * 9 + "tench\n")
    fails(own, wanted, "line 10 is 'tench'; it must have a synset such as n01440764")
    (own / TEXTS[0]).unlink()
    (own / TEXTS[2]).write_text("ILSVRC2012_val_00000001.JPEG n01440764\n" * 2)
    fails(own, wanted, "line 2: image 1 is there twice")


def test_a_damaged_devkit(own, wanted):
    whole = (own / DEVKIT).read_bytes()
    (own / DEVKIT).write_bytes(whole[: len(whole) // 2])
    fails(own, wanted, f"{DEVKIT}: it is cut, or unpacks to more than 67,108,864 bytes")
    (own / DEVKIT).write_bytes(gzip.compress(bytes(80_000_000)))
    fails(own, wanted, f"{DEVKIT}: it is cut, or unpacks to more than 67,108,864 bytes")
    (own / DEVKIT).write_bytes(b"hello" * 100)
    fails(own, wanted, rf"{DEVKIT}: damaged \(")
    (own / DEVKIT).write_bytes(gzip.compress(packed({IDS: b"1\n"})))
    fails(own, wanted, f"{DEVKIT}: no {META} in it")
    (own / DEVKIT).write_bytes(gzip.compress(packed({IDS: b"1\n", META: b"garbage"})))
    fails(own, wanted, rf"{DEVKIT}: {META} cannot be read \(")
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        meta = archive.extractfile(f"ILSVRC2012_devkit_t12/data/{META}")
        assert meta is not None
        right = meta.read()
    (own / DEVKIT).write_bytes(gzip.compress(packed({IDS: b"1\n0\n", META: right})))
    fails(own, wanted, f"line 2 of {IDS} is '0'; it must be one of the 5 ids of {META}")


def test_what_claims_to_be_imagenet_has_its_counts(own, wanted, monkeypatch):
    (own / COUNTS).unlink()
    fails(
        own,
        wanted,
        r"5 classes, 60 training and 10 validation images; ImageNet has 1,000, 1,281,167 and "
        r"50,000 \(missing: 'n01496331', .* and 992 more\): get the tars again",
    )
    (own / COUNTS).write_text(json.dumps({"classes": 5, "train": 61, "val": 10}))
    fails(own, wanted, "60 training and 10 validation images; counts.json has 5, 61 and 10")
    (own / COUNTS).write_text("{}")
    fails(own, wanted, rf'{COUNTS}: .*; it says {{"classes": N, "train": N, "val": N}}')
    (own / COUNTS).unlink()
    monkeypatch.setattr(imagenet, "_WHOLE", imagenet._Counts(CLASSES, 60, 10))
    monkeypatch.setattr(imagenet, "lemmas", lambda: dict.fromkeys(SYNSETS, ""))
    open_source(f"imagenet:{own}", wanted, 0)
    monkeypatch.setattr(imagenet, "lemmas", lambda: dict.fromkeys([*SYNSETS[1:], "n09999999"], ""))
    fails(own, wanted, "'n01440764': no class of ILSVRC 2012")


def test_a_bad_image_is_named_with_its_class(own, wanted, tmp_path):
    name, synset = f"{SYNSETS[1]}_5.JPEG", SYNSETS[1]
    files = {k: v for k, v in members_of_classes(own).items() if k.startswith(synset)}
    files[name] = files[name][: len(files[name]) // 2]
    rewrite(own / TRAIN, lambda tars: {**tars, f"{synset}.tar": packed(files)})
    config = wanted.model_copy(update={"max_bad_fraction": 0.1})
    source = open_source(f"imagenet:{own}", config, 0)
    manifest = write_shards(source, config, 0, open_store(str(tmp_path / "s")), "x")
    assert manifest.report["skipped"] == {"truncated or damaged image": 1}
    assert manifest.report["skipped_images"][0].startswith(f"{synset}/{name}: ")
    assert PilImage.open(io.BytesIO(files[f"{synset}_6.JPEG"])).format == "JPEG"

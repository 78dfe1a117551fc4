from __future__ import annotations

import gzip
import os
import re
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage

from epg.config.data import DataConfig
from epg.data.sources import (
    SCHEMES,
    BadImageError,
    Contents,
    Image,
    absolute_spec,
    changes_in_words,
    count_classes,
    fetching,
    open_source,
    reading,
    source_contents,
)
from epg.data.sources.base import stratified_held_out
from epg.errors import UserError


def folder_settings(settings, **changes):
    return settings(**{"channels": 3, "num_classes": 2, **changes})


def image_of(source, item) -> Image:
    """One image of a source; raises what is wrong with it."""
    [(same, result)] = source.read([item])
    assert same == item
    if isinstance(result, BadImageError):
        raise result
    return result


def names(source, split: str) -> set[str]:
    return {item.name for item in source.items if item.split == split}


# --- digits ----------------------------------------------------------------------------------


def test_digits_are_all_there(settings):
    source = open_source("digits", settings(), 0)
    assert source.classes == [str(i) for i in range(10)]
    assert len(source.items) == 1797
    assert Counter(item.split for item in source.items) == {"train": 1438, "held-out": 359}
    image = image_of(source, source.items[0]).pixels
    assert image.shape == (8, 8, 1)
    assert image.dtype == np.uint8
    values = {int(v) for item in source.items[:50] for v in image_of(source, item).pixels.ravel()}
    assert values <= {round(v * 255 / 16) for v in range(17)}
    assert values >= {0, 255}


def test_digits_are_split_by_seed_and_class(settings):
    first = open_source("digits", settings(), 0)
    assert names(first, "train") == names(open_source("digits", settings(), 0), "train")
    assert names(first, "train") != names(open_source("digits", settings(), 1), "train")
    assert not names(first, "train") & names(first, "held-out")
    labels = Counter(item.label for item in first.items if item.split == "held-out")
    assert all(35 <= count <= 37 for count in labels.values())


def test_digits_with_three_channels_are_copies(settings):
    grey, colour = (open_source("digits", settings(channels=c), 0) for c in (1, 3))
    one, three = (image_of(s, s.items[5]).pixels for s in (grey, colour))
    assert np.array_equal(three, np.repeat(one, 3, axis=2))


def test_digits_have_one_size(settings):
    with pytest.raises(UserError, match=r"image_size is 16: .* use --set data.image_size=8"):
        open_source("digits", settings(image_size=16), 0)


# --- splitting -------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0))
def test_every_class_is_in_both_splits(sizes, fraction, seed):
    held_out = stratified_held_out(sizes, fraction, seed % 2**31)
    for size, chosen in zip(sizes, held_out, strict=True):
        assert 1 <= len(chosen) < size
        assert len(set(chosen.tolist())) == len(chosen)
        assert abs(len(chosen) - size * fraction) <= 1
        assert 0 <= chosen.min() <= chosen.max() < size


# --- folders ---------------------------------------------------------------------------------


def test_folder_is_read_split_and_cropped(settings, photos):
    source = open_source(f"folder:{photos}", folder_settings(settings), 0)
    assert source.classes == ["apple", "pear"]
    assert len(names(source, "train")) == 10
    assert len(names(source, "held-out")) == 2
    for item in source.items:
        colour = (40 * int(Path(item.name).stem), 100 * item.label, 50)
        assert (image_of(source, item).pixels == colour).all()
        assert image_of(source, item).pixels.shape == (8, 8, 3)
    assert count_classes(f"folder:{photos}") == 2
    assert count_classes("digits") == 10


@pytest.mark.parametrize("second", ["val", "held-out"])
def test_train_and_val_folders_are_the_splits(settings, photos, tmp_path, second):
    root = tmp_path / "split"
    root.mkdir()
    photos.rename(root / "train")
    for name in ("apple", "pear"):
        (root / second / name).mkdir(parents=True)
        (root / "train" / name / "3.png").rename(root / second / name / "x.png")
    source = open_source(f"folder:{root}", folder_settings(settings), 0)
    assert names(source, "held-out") == {f"{second}/apple/x.png", f"{second}/pear/x.png"}
    assert len(names(source, "train")) == 10
    assert image_of(source, source.items[-1]).pixels[0, 0].tolist() == [120, 100, 50]

    (root / second / "pear").rename(root / second / "plum")
    message = f"train/ and {second}/ must have the same classes; only one .* 'pear', 'plum'"
    with pytest.raises(UserError, match=message):
        count_classes(f"folder:{root}")


def test_classes_and_files_are_in_bytewise_order(tmp_path):
    for name in ("b", "A", "é", "a", "Z"):
        (tmp_path / name).mkdir()
        for file in ("2", "10", "1"):
            (tmp_path / name / file).write_bytes(b"x")
    from epg.data.sources.listing import scan_folder

    listing = scan_folder(tmp_path)
    assert listing.classes == ["A", "Z", "a", "b", "é"]
    assert [file.name for file in listing.files["all"][0]] == ["1", "10", "2"]


def test_what_is_no_sample_is_ignored_and_counted(settings, photos):
    (photos / ".git").mkdir()
    (photos / "__MACOSX").mkdir()
    (photos / "README.md").write_text("x")
    (photos / "apple" / ".DS_Store").write_text("x")
    (photos / "apple" / "Thumbs.db").write_text("x")
    (photos / "apple" / "more").mkdir()
    source = open_source(f"folder:{photos}", folder_settings(settings), 0)
    assert len(source.items) == 12
    assert source.ignored == {
        "file outside the class folders": 1,
        "folder inside a class folder": 1,
        "hidden file or folder": 4,
    }


def test_identity_is_names_and_bytes(photos, tmp_path):
    spec = f"folder:{photos}"
    before = source_contents(spec)
    os.utime(photos / "apple" / "0.png", ns=(1, 1))
    shutil.copytree(photos, tmp_path / "copy")
    for same in (spec, f"folder:{tmp_path / 'copy'}"):
        assert source_contents(same).digest == before.digest
    (photos / "apple" / "0.png").rename(photos / "apple" / "9.png")
    renamed = source_contents(spec)
    assert renamed.digest != before.digest
    assert changes_in_words(before, renamed) == ["1 image under another name ('apple/9.png')"]
    (photos / "apple" / "9.png").unlink()
    (photos / "apple" / "9.png").symlink_to("/nowhere")
    assert source_contents(spec).digest not in (before.digest, renamed.digest)
    assert source_contents("digits").digest == source_contents("digits").digest


def test_quick_look_reads_only_what_nothing_vouches_for(photos, monkeypatch):
    spec = f"folder:{photos}"
    noted = Contents.from_bytes(source_contents(spec).to_bytes())
    assert noted is not None
    changed = photos / "pear" / "1.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    opened: list[Path] = []
    read = reading._sha256

    def noting(path: Path) -> str:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(reading, "_sha256", noting)
    now = source_contents(spec, [noted])
    assert opened == [changed]
    assert changes_in_words(noted, now) == ["1 image changed ('pear/1.png')"]
    assert source_contents(spec, [noted, now]) == now
    assert opened == [changed]


def test_changes_have_words(photos):
    spec = f"folder:{photos}"
    before = source_contents(spec)
    (photos / "apple").rename(photos / "plum")
    shutil.copytree(photos / "pear", photos / "quince")
    (photos / "quince" / "0.png").write_bytes(b"other")
    (photos / "pear" / "0.png").unlink()
    words = changes_in_words(before, source_contents(spec))
    assert words[0] == "class 'apple' is now called 'plum'"
    assert words[1] == "1 class new: 'quince'"
    assert words[-1].startswith("6 images added ('quince/0.png'") or "added" in words[-2]
    assert any(text == "1 image removed ('pear/0.png')" for text in words)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        gzip.compress(b"[]", mtime=0),
        gzip.compress(b'{"classes": [], "files": {"a": 1}}', mtime=0),
    ],
)
def test_damaged_note_vouches_for_nothing(damage):
    assert Contents.from_bytes(damage) is None


def test_every_flipped_bit_of_a_note_is_noticed_or_harmless(photos):
    contents = source_contents(f"folder:{photos}")
    data = contents.to_bytes()
    for bit in range(0, 8 * len(data), 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert Contents.from_bytes(bytes(flipped)) in (None, contents)


def test_relative_folders_become_absolute(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert absolute_spec("folder:photos") == f"folder:{photos}"
    assert absolute_spec("digits") == "digits"
    assert count_classes("folder:photos") == 2


def test_photographs_of_scikit_learn(settings, tmp_path):
    from sklearn.datasets import load_sample_images

    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (tmp_path / name).mkdir()
        for i in range(3):
            crop = PilImage.fromarray(pixels[: 300 + 20 * i, 50 * i :])
            crop.save(tmp_path / name / f"{i}.jpg", quality=95)
    source = open_source(f"folder:{tmp_path}", folder_settings(settings, image_size=64), seed=0)
    china, flower = (
        np.mean([image_of(source, i).pixels for i in source.items if i.label == k], axis=(0, 1, 2))
        for k in (0, 1)
    )
    assert image_of(source, source.items[0]).pixels.shape == (64, 64, 3)
    assert china[2] > 100  # the sky is blue
    assert flower[2] < china[2]


# --- mistakes --------------------------------------------------------------------------------


def one_file(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        PilImage.new("L", (9, 9)).save(root / path, "PNG")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "is empty; it needs one sub-folder of images per class"),
        (["1.png", "2.png"], "has 2 files and no sub-folders: put the images of each class"),
        (["a/1.png", "a/2.png"], "has only one class, 'a'; at least 2 sub-folders are needed"),
        (["a/1.png", "a/2.png", "b/c/1.png"], "b' has no images, only 1 folders"),
        (["a/1.png", "a/2.png", "b/.hidden"], "b' has no images; add some or remove the folder"),
        (["a/1.png", "a/2.png", "b/1.png"], "a class needs at least 2 images, .* only one in 'b'"),
        (
            ["train/a/1.png", "val/a/1.png", "held-out/a/1.png"],
            "has val/ and held-out/ beside train/: keep one of them",
        ),
        (["train/a/1", "train/b/1", "val/a/1"], r"same classes; only one of them has 'b'"),
        ([f"{c}/{i}" for c in "abcdef" for i in "1"], "only one in 'a', 'b', 'c' and 3 more"),
    ],
)
def test_wrong_layouts(tmp_path, paths, message):
    root = tmp_path / "data"
    root.mkdir()
    one_file(root, *paths)
    with pytest.raises(UserError, match=message) as caught:
        count_classes(f"folder:{root}")
    assert "\n" not in str(caught.value)


def test_wrong_number_of_classes(settings, photos):
    message = r"data.num_classes is 7, .* has 2 classes: use --set data.num_classes=2"
    with pytest.raises(UserError, match=message):
        open_source(f"folder:{photos}", folder_settings(settings, num_classes=7), 0)
    with pytest.raises(UserError, match="digits has 10 classes"):
        open_source("digits", settings(num_classes=7), 0)


def test_missing_folder_file_and_unknown_source(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="nothing: no such folder"):
        count_classes(f"folder:{tmp_path / 'nothing'}")
    with pytest.raises(UserError, match="file: not a folder"):
        count_classes(f"folder:{tmp_path / 'file'}")
    for spec in ("digit", "digits:", "digits:x", "folder", "folder:", "imagenettes:x", ""):
        message = re.escape(f"data.source is {spec!r}: use digits, or folder:PATH")
        with pytest.raises(UserError, match=message):
            count_classes(spec)
        with pytest.raises(UserError, match=message):
            absolute_spec(spec)


def test_every_scheme_is_in_the_recipes_description():
    described = DataConfig.model_fields["source"].description or ""
    assert all(scheme.USAGE.partition(" ")[0] in described for scheme in SCHEMES.values())


def test_images_come_in_the_order_asked_for_and_reading_can_stop(settings, photos):
    source = open_source(f"folder:{photos}", folder_settings(settings), 0)
    wanted = [source.items[i] for i in (7, 2, 11, 2)]
    found = list(source.read(iter(wanted)))
    assert [item for item, _ in found] == wanted
    images = [image for _, image in found if isinstance(image, Image)]
    assert np.array_equal(images[1].pixels, images[3].pixels)
    reading = source.read(source.items)
    next(reading)
    threads = threading.active_count()
    reading.close()
    assert threading.active_count() < threads


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder(photos):
    (photos / "pear").chmod(0)
    with pytest.raises(UserError, match="pear' cannot be read: Permission denied"):
        count_classes(f"folder:{photos}")


def test_colours_become_grey_where_one_channel_is_wanted(settings, photos):
    source = open_source(f"folder:{photos}", folder_settings(settings, channels=1), 0)
    image = image_of(source, source.items[0])
    assert image.pixels.shape == (8, 8, 1)
    assert "colours to grey" in image.conversions


@pytest.mark.parametrize(("gigabytes", "threads"), [(1, 1), (4, 4), (64, 8)])
def test_threads_are_bounded_by_memory(settings, photos, monkeypatch, gigabytes, threads):
    source = open_source(f"folder:{photos}", folder_settings(settings), 0)
    asked: list[int] = []
    pool = fetching.ThreadPoolExecutor

    def noting(threads: int, name: str):
        asked.append(threads)
        return pool(threads, name)

    monkeypatch.setattr(fetching, "available_cores", lambda: 8)
    monkeypatch.setattr(fetching, "memory_limit", lambda: gigabytes * 2**30)
    monkeypatch.setattr(fetching, "ThreadPoolExecutor", noting)
    assert len(list(source.read(source.items))) == len(source.items)
    assert asked == [threads]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "held-out", "test"])
def test_held_out_images_beside_train_have_many_names(settings, tmp_path, name):
    one_file(tmp_path, *(f"{s}/{c}/1.png" for s in ("train", name) for c in "ab"))
    source = open_source(f"folder:{tmp_path}", folder_settings(settings), 0)
    assert [item.split for item in source.items] == ["train"] * 2 + ["held-out"] * 2
    if name != "test":
        one_file(tmp_path, "test/a/1.png")
        source = open_source(f"folder:{tmp_path}", folder_settings(settings), 0)
        assert {item.name.partition("/")[0] for item in source.items} == {"train", name}
        assert list(source.ignored) == ["folder test/, since another one is held out"]


def test_names_that_are_not_utf8_are_read_and_shown(settings, tmp_path):
    one_file(tmp_path, *(f"{c}/{i}.png" for c in ("b", "c") for i in range(2)))
    (tmp_path / "c").rename(tmp_path / os.fsdecode(b"c\xe9"))
    source = open_source(f"folder:{tmp_path}", folder_settings(settings), 0)
    assert source.classes == ["b", "c\\xe9"]
    assert all(isinstance(image_of(source, item), Image) for item in source.items)
    assert source_contents(f"folder:{tmp_path}").digest

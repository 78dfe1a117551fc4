"""Images that others made: ADM's form and folders, and what is refused of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from epg.errors import UserError
from epg.evaluation.saving import write_npz
from epg.evaluation.sources import FolderImages, NpzImages, content_digest, open_images, spans

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(23, dtype=np.int64) % 4


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_spans_of_an_npz_are_read_in_any_order(tmp_path):
    images = open_images(saved(tmp_path / "x.npz", arr_0=PIXELS, arr_1=LABELS))
    assert isinstance(images, NpzImages)
    assert images.shape == (6, 5, 3)
    assert images.labels.tolist() == LABELS.tolist()
    for start, end in ((0, 10), (10, 23), (5, 8), (20, 21)):
        assert np.array_equal(images.read(start, end).numpy(), PIXELS[start:end])
    whole = list(spans(images, 7))
    assert [len(pixels) for pixels, _ in whole] == [7, 7, 7, 2]
    assert np.array_equal(np.concatenate([pixels for pixels, _ in whole]), PIXELS)


def test_what_sample_writes_is_read_by_numpy_and_by_us(tmp_path):
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        write_npz(file, iter([PIXELS[:20], PIXELS[20:]]), LABELS, PIXELS.shape)
    with np.load(path, allow_pickle=False) as found:
        assert np.array_equal(found["arr_0"], PIXELS)
        assert np.array_equal(found["arr_1"], LABELS)
    assert np.array_equal(open_images(path).read(0, 23).numpy(), PIXELS)


def test_compressed_files_are_read_too_and_are_the_same_images(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", arr_0=PIXELS)
    images = open_images(tmp_path / "x.npz")
    assert not images.has_labels
    assert (images.labels == -1).all()
    assert np.array_equal(images.read(3, 9).numpy(), PIXELS[3:9])
    plain = open_images(saved(tmp_path / "y.npz", arr_0=PIXELS, arr_1=LABELS))
    assert content_digest(images) == content_digest(plain)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": PIXELS}, "it holds images, and no arr_0"),
        ({"arr_0": PIXELS.astype(np.float32)}, "arr_0 is <f4: images are uint8"),
        ({"arr_0": np.full((3, 4, 4, 3), np.nan)}, "arr_0 is <f8: images are uint8"),
        ({"arr_0": PIXELS[0]}, r"shape \(6, 5, 3\)"),
        ({"arr_0": PIXELS[:, :, :, :2]}, r"shape \(23, 6, 5, 2\)"),
        ({"arr_0": PIXELS.transpose(0, 3, 1, 2)}, r"shape \(23, 3, 6, 5\)"),
        ({"arr_0": PIXELS[:1]}, "of 2 images or more"),
        ({"arr_0": np.asfortranarray(PIXELS)}, "of 2 images or more"),
        ({"arr_0": np.array([{}, {}], dtype=object)}, "where numbers are expected"),
        ({"arr_0": PIXELS, "arr_1": LABELS[:-1]}, r"arr_1 is <i8 \(22,\)"),
        ({"arr_0": PIXELS, "arr_1": LABELS.astype(float)}, "arr_1 is <f8"),
        ({"arr_0": PIXELS, "arr_1": LABELS - 1}, "has the class -1"),
        ({"arr_0": PIXELS, "arr_1": np.array([None] * 23)}, "where numbers are expected"),
    ],
)
def test_other_arrays_are_refused_in_one_line(tmp_path, arrays, reason):
    path = saved(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=reason) as caught:
        open_images(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    path = saved(tmp_path / "x.npz", arr_0=PIXELS)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match="no images in ADM's form"):
        open_images(path)
    flipped = bytearray(good)
    flipped[600] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="no images in ADM's form"):
        list(spans(open_images(path), 7))
    with pytest.raises(UserError, match="no such file or folder"):
        open_images(tmp_path / "absent.npz")


def test_an_array_that_claims_more_than_there_is_costs_no_memory(tmp_path):
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    shape = (10**9, 256, 256, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(1000))
    with pytest.raises(UserError, match="claims"):
        open_images(path)


def folder(path: Path, *, sub: bool = True) -> Path:
    for i, pixels in enumerate(PIXELS):
        place = path / f"{LABELS[i]:04d}" if sub else path
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:06d}.png")
    return path


def test_a_folder_holds_classes_in_its_folders(tmp_path):
    images = open_images(folder(tmp_path / "pngs"))
    assert isinstance(images, FolderImages)
    order = np.argsort(LABELS, kind="stable")
    assert images.labels.tolist() == LABELS[order].tolist()
    assert np.array_equal(images.read(0, 23).numpy(), PIXELS[order])
    flat = open_images(folder(tmp_path / "flat", sub=False))
    assert not flat.has_labels
    assert content_digest(flat) == content_digest(
        open_images(saved(tmp_path / "x.npz", arr_0=PIXELS))
    )


def test_bad_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image below it"):
        open_images(tmp_path / "empty")
    place = folder(tmp_path / "pngs", sub=False)
    Image.fromarray(PIXELS[0, :4]).save(place / "zz.png")
    with pytest.raises(UserError, match=r"zz\.png: 5 x 4 pixels, where the first image has 5 x 6"):
        list(spans(open_images(place), 7))
    (place / "zz.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"zz\.png: cannot be read as an image"):
        list(spans(open_images(place), 7))

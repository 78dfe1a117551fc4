"""Make a small ImageNet in the layout of the real one, to try the data path and the pipeline on.

    python benchmarks/make_imagenet.py FOLDER --classes 1000 --per-class 100

leaves in FOLDER, as ILSVRC 2012 is handed out, `ILSVRC2012_img_train.tar` (a tar of a tar per
class), `ILSVRC2012_img_val.tar`, `ILSVRC2012_devkit_t12.tar.gz` with `meta.mat`, the ground truth
as text, and a `counts.json` that says how many images there are. Pictures are random crops of the
photographs that scikit-learn bundles (and scikit-image's, where it is installed), each class from
places of its own, as JPEG files of the originals' shapes. Known oddities are planted: a PNG named
JPEG, CMYK, grey, EXIF orientation. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.util
import io
import json
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_images

from epg.data.sources.imagenet import COUNTS, TRAIN, VAL
from epg.data.sources.imagenet_classes import lemmas
from epg.data.sources.imagenet_truth import DEVKIT, IDS, META

PNG_NAMED_JPEG = "n02105855_2933.JPEG"  # as in the real set
CMYK_EVERY = 500  # one of so many training images; the real set has 22
SHAPES = ((4, 3), (3, 4), (1, 1), (3, 2))  # width to height
_QUALITIES = (75, 90, 96)


class Maker:
    """Draws pictures: a pure function of seed, class and number.

    Args:
        photos: uint8 [H, W, 3] each.
        side: of a picture's longer side, in pixels.
        seed: of everything.
    """

    def __init__(self, photos: list[np.ndarray], side: int, seed: int) -> None:
        self._photos = [Image.fromarray(photo) for photo in photos]
        self._side, self._seed = side, seed

    def picture(self, label: int, number: int) -> Image.Image:
        """Return a crop around one of the class's own places, mode RGB."""
        own = np.random.default_rng([self._seed, 1, label])
        photo = self._photos[int(own.integers(len(self._photos)))]
        places, turn = own.random((3, 2)), int(own.integers(256))
        rng = np.random.default_rng([self._seed, 2, label, number])
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        scale = 0.25 + 0.3 * rng.random()
        width = scale * min(photo.width, photo.height * shape[0] / shape[1])
        height = width * shape[1] / shape[0]
        middle = places[int(rng.integers(len(places)))] + rng.normal(0, 0.03, 2)
        left, top = (
            min(max(float(at) * whole - part / 2, 0), whole - part)
            for at, whole, part in zip(middle, photo.size, (width, height), strict=True)
        )
        longer = self._side * (0.8 + 0.4 * rng.random())
        wide, high = (max(8, round(longer * part / max(shape))) for part in shape)
        box = (left, top, left + width, top + height)
        crop = photo.resize((wide, high), Image.Resampling.BILINEAR, box=box)
        hue, saturation, value = crop.convert("HSV").split()
        hue = hue.point(lambda level: (level + turn) % 256)  # classes differ by colour as well
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image

    def file(self, label: int, number: int, oddity: str = "") -> bytes:
        """Return the bytes of a file named JPEG, with an oddity or without."""
        image = self.picture(label, number)
        file = io.BytesIO()
        if oddity == "png":
            image.save(file, "PNG")
            return file.getvalue()
        image = image.convert({"cmyk": "CMYK", "grey": "L"}.get(oddity, "RGB"))
        more = {"exif": _turned()} if oddity == "exif" else {}
        image.save(file, "JPEG", quality=_QUALITIES[number % len(_QUALITIES)], **more)
        return file.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def photographs() -> list[np.ndarray]:
    """Return the photographs that installed libraries bundle, uint8 [H, W, 3]."""
    photos = list(load_sample_images().images)
    if importlib.util.find_spec("skimage") is None:
        return photos
    data = importlib.import_module("skimage.data")
    return [*photos, data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


def oddity(name: str, number: int, first: bool) -> str:
    """Tell what is odd about a training image: the known PNG, some CMYK, grey, and turned ones."""
    if name == PNG_NAMED_JPEG or (first and number == 1):
        return "png"
    if number % CMYK_EVERY == 3:
        return "cmyk"
    return {7: "grey", 11: "exif"}.get(number % 100, "")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file whose header depends on name and content alone."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, 1_339_000_000
    archive.addfile(info, io.BytesIO(content))


def class_tar(maker: Maker, label: int, synset: str, per_class: int) -> bytes:
    """Return the tar of one class."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(1, per_class + 1):
            name = f"{synset}_{number}.JPEG"
            if synset == PNG_NAMED_JPEG[:9] and number == 1:
                name = PNG_NAMED_JPEG
            first = label == 0 and synset != PNG_NAMED_JPEG[:9]
            add(archive, name, maker.file(label, number, oddity(name, number, first)))
    return file.getvalue()


def validation(count: int, classes: int, seed: int) -> np.ndarray:
    """Return the class of each validation image: as many of each, in an order of their own."""
    labels = np.arange(count) % classes
    return np.random.default_rng([seed, 3]).permutation(labels)


def devkit(synsets: list[str], labels: np.ndarray, seed: int) -> tuple[bytes, bytes]:
    """Return the devkit's archive and the ground truth: ids are not in the synsets' order."""
    ids = np.random.default_rng([seed, 4]).permutation(len(synsets)) + 1
    words = lemmas()
    rows: list[tuple[float, str, str, float]] = [
        (float(number), synset, words[synset], 0.0)
        for number, synset in sorted(zip(ids.tolist(), synsets, strict=True))
    ]
    # As in the real one, what stands above the classes follows them.
    rows.append((float(len(synsets) + 1), "n00001740", "entity", float(len(synsets))))
    table = np.empty(
        (len(rows), 1),
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")],
    )
    for place, row in enumerate(rows):
        table[place, 0] = row
    meta = io.BytesIO()
    savemat(meta, {"synsets": table})
    # The header's text names the moment; this one does not.
    matlab = b"MATLAB 5.0 MAT-file".ljust(116) + meta.getvalue()[116:]
    truth = "".join(f"{ids[label]}\n" for label in labels).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in ((META, matlab), (IDS, truth)):
            add(archive, f"ILSVRC2012_devkit_t12/data/{name}", content)
    return gzip.compress(file.getvalue(), mtime=0), truth


def make(
    folder: Path, classes: int, per_class: int, val_per_class: int, side: int, seed: int
) -> Iterator[tuple[int, int]]:
    """Write everything into `folder`; yield (images made, images in all) on the way."""
    synsets = list(lemmas())[:classes]
    maker = Maker(photographs(), side, seed)
    count = classes * val_per_class
    total, done = classes * per_class + count, 0
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / TRAIN, "w", format=tarfile.GNU_FORMAT) as archive:
        for label, synset in enumerate(synsets):
            add(archive, f"{synset}.tar", class_tar(maker, label, synset, per_class))
            done += per_class
            yield done, total
    labels = validation(count, classes, seed)
    with tarfile.open(folder / VAL, "w", format=tarfile.GNU_FORMAT) as archive:
        for number, label in enumerate(labels.tolist(), 1):
            odd = "cmyk" if number in (19877, count) else ""  # ILSVRC2012_val_00019877 is one
            content = maker.file(label, per_class + number, odd)
            add(archive, f"ILSVRC2012_val_{number:08d}.JPEG", content)
            done += 1
            if done % 100 == 0:
                yield done, total
    kit, truth = devkit(synsets, labels, seed)
    (folder / DEVKIT).write_bytes(kit)
    (folder / IDS).write_bytes(truth)
    counts = {"classes": classes, "train": classes * per_class, "val": count}
    (folder / COUNTS).write_text(json.dumps(counts) + "\n", encoding="ascii")
    yield total, total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=1000, help="the first so many of the 1,000")
    parser.add_argument("--per-class", type=int, default=10, help="training images of a class")
    parser.add_argument("--val-per-class", type=int, default=None, help="default: a twentieth")
    parser.add_argument("--side", type=int, default=400, help="about the longer side, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    val = max(2, given.per_class // 20) if given.val_per_class is None else given.val_per_class
    if not 2 <= given.classes <= 1000 or min(given.per_class, val, given.side // 8) < 1:
        parser.error("2 to 1,000 classes, at least one image of each, at least 8 pixels")
    begun = time.monotonic()
    for done, total in make(
        given.folder, given.classes, given.per_class, val, given.side, given.seed
    ):
        sys.stderr.write(f"\r{done:,} of {total:,} images, {time.monotonic() - begun:.0f} s")
    sys.stderr.write("\n")


if __name__ == "__main__":
    main()

"""IDX files, plain or gzip: MNIST and the sets made like it (Fashion-MNIST, KMNIST, EMNIST).

`...train-images-idx3-ubyte` beside `...train-labels-idx1-ubyte`, and `t10k` or `test` for what is
held out.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.settings import ImageSettings
from epg.data.sources.archives import archive_contents, seeded_held_out
from epg.data.sources.base import Item, OnRead, Reading, Source, SourceNotFound
from epg.data.sources.contents import Contents
from epg.data.sources.fetching import read_items
from epg.data.sources.index import ItemTable, Names
from epg.data.sources.labels import NAMES_FILE, classes_of, read_names
from epg.data.sources.volumes import Volume, absolute_location, find_volumes
from epg.errors import UserError, printable, shown_names

USAGE = "idx:FOLDER|URI with MNIST's files"
_FILE = re.compile(
    r"(?:.*/)?(?P<set>.*?)(?P<kind>images|labels)[.-]idx(?P<axes>[134])[.-]ubyte(?:\.gz)?"
)
_HELD_OUT = re.compile(r"(?:.*[-_.])?(t10k|test)[-_.]$")
_MOST_BYTES = 4 * 1024**3  # of pixels: they lie in memory
_UBYTE = 0x08


def open(
    location: str, config: ImageSettings, seed: int, contents: Contents | None = None
) -> Source:
    """Return the files' images. Raises `UserError` for unusable files."""
    del contents
    return IdxSource(location, config, seed)


def count_classes(location: str) -> int:
    """Return the number of classes, from the files of labels. Raises `UserError`."""
    return len(_look(location).classes)


def contents(location: str, known: Iterable[Contents], on_progress: OnRead | None) -> Contents:
    """Return the digests of all files. Raises `UserError`."""
    return archive_contents(_volumes(location), known, on_progress)


def absolute(location: str) -> str:
    """Return the absolute path; a URI is as it is."""
    return absolute_location(location)


class _Found(NamedTuple):
    images: list[Volume]
    labels: list[NDArray[np.int64]]
    held_out: list[bool]
    classes: list[str]


def _volumes(location: str) -> list[Volume]:
    spec = printable(f"idx:{location}")
    found = find_volumes(
        spec, location, lambda name: bool(_FILE.fullmatch(name)) or name == NAMES_FILE
    )
    if not any(_FILE.fullmatch(volume.name) for volume in found):
        raise SourceNotFound(
            f"{spec}: no IDX files there (train-images-idx3-ubyte, train-labels-idx1-ubyte, or the "
            "same with .gz)"
        )
    return found


def _look(location: str) -> _Found:
    """Pair files of images with files of labels, and read the labels."""
    spec = printable(f"idx:{location}")
    pairs: dict[str, dict[str, Volume]] = {}
    names = None
    for volume in _volumes(location):
        match = _FILE.fullmatch(volume.name)
        if match is None:
            names = read_names(volume)
            continue
        pair = pairs.setdefault(match["set"], {})
        there = pair.get(match["kind"])
        if there is not None and volume.name == f"{there.name}.gz":
            continue  # torchvision leaves the packed file beside the unpacked one
        if there is not None:
            raise UserError(f"{spec}: {there.name} and {volume.name} are the same set: keep one")
        pair[match["kind"]] = volume
    alone = [v.name for pair in pairs.values() if len(pair) < 2 for v in pair.values()]
    if alone:
        raise UserError(
            f"{spec}: {shown_names(alone)} without its partner: images and labels come in pairs"
        )
    held_out = {name: bool(_HELD_OUT.match(name)) for name in pairs}
    if len(pairs) > 2 or (len(pairs) == 2 and len(set(held_out.values())) < 2):
        raise UserError(
            f"{spec}: the sets {shown_names(pairs)} are there; keep one, and what is held out of it"
        )
    ordered = sorted(pairs, key=lambda name: held_out[name])
    raw = [_read_labels(pairs[name]["labels"]) for name in ordered]
    values = sorted({int(value) for labels in raw for value in np.unique(labels)})
    classes, label_of = classes_of(spec, map(str, values), names)
    place = np.zeros(256, np.int64)
    for value in values:
        place[value] = label_of[str(value)]
    return _Found(
        [pairs[name]["images"] for name in ordered],
        [place[labels] for labels in raw],
        [held_out[name] and len(pairs) == 2 for name in ordered],
        classes,
    )


class IdxSource:
    """The images of IDX files, at a recipe's size and channels; all their pixels lie in memory.

    Raises:
        UserError: files that are missing, damaged, or do not belong together.
    """

    def __init__(self, location: str, config: ImageSettings, seed: int) -> None:
        found = _look(location)
        self.spec, self.classes = printable(f"idx:{location}"), found.classes
        self.ignored: dict[str, int] = {}
        self._config, self._images = config, found.images
        for volume, labels in zip(found.images, found.labels, strict=True):
            _, shape = _head(volume)
            if shape[0] != len(labels):
                raise UserError(
                    f"{volume.place}: {shape[0]:,} images, but {len(labels):,} labels beside it: "
                    "get both again"
                )
        of_row = np.concatenate(found.labels)
        if any(found.held_out):
            held_out = np.repeat(found.held_out, [len(labels) for labels in found.labels])
        else:
            held_out = seeded_held_out(
                self.spec, of_row, self.classes, config.held_out_fraction, seed
            )
        names = Names.of(
            f"{volume.name} {row}"
            for volume, labels in zip(found.images, found.labels, strict=True)
            for row in range(len(labels))
        )
        self.items = ItemTable(held_out, of_row, len(self.classes), names)
        self._pixels: list[NDArray[np.uint8]] = []

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield images, each uint8 [H, W, C]."""
        if not self._pixels:
            self._pixels = [_read(volume) for volume in self._images]
        return read_items(items, self._fetch, self._config)

    def _fetch(self, item: Item) -> NDArray[np.uint8]:
        row = self.items.row(item)
        for pixels in self._pixels:
            if row < len(pixels):
                return pixels[row]
            row -= len(pixels)
        raise AssertionError(item)


def _read_labels(volume: Volume) -> NDArray[np.uint8]:
    labels = _read(volume)
    if labels.ndim != 1:
        raise UserError(f"{volume.place}: {labels.ndim} axes, labels have one")
    return labels


def _head(volume: Volume) -> tuple[int, tuple[int, ...]]:
    """Return where the values begin, and their shape. Raises `UserError`."""
    with _stream(volume) as stream:
        start = _take(volume, stream, 4)
        axes = start[3]
        if start[:3] != bytes([0, 0, _UBYTE]) or axes not in (1, 3, 4):
            raise UserError(
                f"{volume.place}: it begins with {start.hex()}, no IDX file of unsigned bytes: get "
                "it again"
            )
        sizes = _take(volume, stream, 4 * axes)
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if math.prod(shape) > _MOST_BYTES or math.prod(shape[1:]) == 0:
        raise UserError(
            f"{volume.place}: values of shape {shape}: at most {_MOST_BYTES >> 20:,} MiB are read"
        )
    return 4 + 4 * axes, shape


def _read(volume: Volume) -> NDArray[np.uint8]:
    """Return a file's values: labels [N], images [N, H, W] or [N, H, W, C]. Raises `UserError`."""
    start, shape = _head(volume)
    count = math.prod(shape)
    with _stream(volume) as stream:
        _take(volume, stream, start)
        data = _take(volume, stream, count)
        try:
            more = stream.read(1)
        except (OSError, EOFError, zlib.error):
            more = b"?"
    if more:
        raise UserError(
            f"{volume.place}: more than the {count:,} bytes of shape {shape}: get it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _stream(volume: Volume) -> io.BufferedIOBase:
    raw = io.BytesIO(volume.read(0, min(volume.size, _MOST_BYTES)))
    return gzip.GzipFile(fileobj=raw) if volume.name.endswith(".gz") else raw


def _take(volume: Volume, stream: io.BufferedIOBase, count: int) -> bytes:
    """Return so many bytes. Raises `UserError` where there are fewer."""
    try:
        data = stream.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{volume.place}: damaged ({error}): get it again") from None
    if len(data) < count:
        raise UserError(
            f"{volume.place}: it ends {count - len(data):,} bytes too early: get it again, whole"
        )
    return data

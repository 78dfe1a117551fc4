"""Parquet files with images in them, as Hugging Face's `datasets` writes them.

A column of images (`image`, `img`: a struct of `bytes` and `path`, or bytes themselves) and one of
labels (`label`, `labels`, `fine_label`, `class`: numbers or names). A file is read by row group;
several groups are kept. Where there are more, the items' `blocks` say which group each is of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epg.data.settings import ImageSettings
from epg.data.sources.archives import archive_contents, seeded_held_out
from epg.data.sources.base import BadImageError, Item, OnRead, Reading, Source, SourceNotFound
from epg.data.sources.contents import Contents
from epg.data.sources.fetching import check_length, read_items
from epg.data.sources.index import ItemTable, Names
from epg.data.sources.labels import NAMES_FILE, classes_of, read_names
from epg.data.sources.parquet_file import ImageFile, RowGroups
from epg.data.sources.volumes import Volume, absolute_location, find_volumes, split_volumes
from epg.errors import printable

USAGE = "parquet:FOLDER|URI with image bytes and a label in each row"
_KEPT = 512 * 1024**2  # bytes of row groups that are kept


def open(
    location: str, config: ImageSettings, seed: int, contents: Contents | None = None
) -> Source:
    """Return the files' images. Raises `UserError` for unusable files."""
    del contents
    return ParquetSource(location, config, seed)


def count_classes(location: str) -> int:
    """Return the number of classes, from the labels' column. Raises `UserError`."""
    return len(_look(location).classes)


def contents(location: str, known: Iterable[Contents], on_progress: OnRead | None) -> Contents:
    """Return the digests of all files. Raises `UserError`."""

    def check(volume: Volume) -> None:
        if volume.name != NAMES_FILE:
            ImageFile(volume)

    return archive_contents(_volumes(location), known, on_progress, check=check)


def absolute(location: str) -> str:
    """Return the absolute path; a URI is as it is."""
    return absolute_location(location)


class _Found(NamedTuple):
    files: list[ImageFile]
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_] | None
    classes: list[str]
    ignored: dict[str, int]


def _volumes(location: str) -> list[Volume]:
    spec = printable(f"parquet:{location}")
    found = find_volumes(
        spec, location, lambda name: name.endswith(".parquet") or name == NAMES_FILE
    )
    if not any(volume.name.endswith(".parquet") for volume in found):
        raise SourceNotFound(f"{spec}: no .parquet there; give the folder or URI that has them")
    return found


def _look(location: str) -> _Found:
    """Open all files and read their labels."""
    spec = printable(f"parquet:{location}")
    volumes = _volumes(location)
    names = next((read_names(v) for v in volumes if v.name == NAMES_FILE), None)
    splits, ignored = split_volumes(v for v in volumes if v.name != NAMES_FILE)
    files = [ImageFile(volume) for of_split in splits.values() for volume in of_split]
    texts = [file.labels() for file in files]
    different = {text for of_file in texts for text in np.unique(of_file).tolist()}
    names = names or next((file.class_names for file in files if file.class_names), None)
    classes, label_of = classes_of(spec, different, names)
    labels = np.concatenate(
        [np.asarray([label_of[text] for text in of_file.tolist()], np.int64) for of_file in texts]
    )
    held_out = None
    if "all" not in splits:
        rows = iter(files)
        held_out = np.concatenate(
            [
                np.full(next(rows).num_rows, split == "held-out")
                for split, of_split in splits.items()
                for _ in of_split
            ]
        )
    return _Found(files, labels, held_out, classes, ignored)


class ParquetSource:
    """The images of Parquet files, at a recipe's size and channels.

    Raises:
        UserError: files that are damaged, or have no images and labels.
    """

    def __init__(self, location: str, config: ImageSettings, seed: int) -> None:
        found = _look(location)
        self.spec, self.classes = printable(f"parquet:{location}"), found.classes
        self.ignored = found.ignored
        self._config, self._files = config, found.files
        self._ends = np.cumsum([file.num_rows for file in found.files])
        held_out = found.held_out
        if held_out is None:
            held_out = seeded_held_out(
                self.spec, found.labels, self.classes, config.held_out_fraction, seed
            )
        names = Names.of(
            f"{file.volume.name} row {row}" for file in found.files for row in range(file.num_rows)
        )
        sizes = np.concatenate([file.sizes() for file in found.files])
        self.items = ItemTable(held_out, found.labels, len(self.classes), names, sizes)
        self._groups = RowGroups(_KEPT)
        # In any order, each image of a large set would cost the reading of its whole group.
        self.blocks = self._row_groups()[self.items.rows] if sizes.sum() > _KEPT else None

    def _row_groups(self) -> NDArray[np.int64]:
        """Return the number of each row's group, counted over all files."""
        counts = np.concatenate([np.diff(file.starts) for file in self._files])
        return np.repeat(np.arange(len(counts)), counts)

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield images, each uint8 [H, W, C]."""
        return read_items(items, self._fetch, self._config)

    def _fetch(self, item: Item) -> bytes:
        row = self.items.row(item)
        part = int(np.searchsorted(self._ends, row, side="right"))
        file = self._files[part]
        row -= int(self._ends[part - 1]) if part else 0
        group = file.group_of(row)
        images = self._groups.get(file, group)
        value = images[row - file.starts[group]].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise BadImageError("no bytes of an image in the row")
        check_length(len(value))
        return value

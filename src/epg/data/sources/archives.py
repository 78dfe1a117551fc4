"""Sources whose images lie in archives: what they are, where they are, and how they are read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from epg.data.settings import ImageSettings
from epg.data.sources.base import BadImageError, Item, OnRead, Reading, stratified_held_out
from epg.data.sources.contents import Contents, FileMark
from epg.data.sources.cursor import Cursor
from epg.data.sources.fetching import check_length, read_items
from epg.data.sources.index import Index, ItemTable, Made
from epg.data.sources.volumes import Volume
from epg.errors import UserError, printable, shown_names
from epg.store.reading import PAUSE_SECONDS, READS

#: Finds the samples of an archive, from the beginning of its volume. Raises `UserError`.
Indexer = Callable[[Cursor], Index]

#: What stands before an archive's name in a source's contents, where folders have split and class.
MARK = "files//"


def archive_contents(
    volumes: Iterable[Volume],
    known: Iterable[Contents],
    on_progress: OnRead | None,
    indexers: Mapping[str, Indexer] | None = None,
    check: Callable[[Volume], object] | None = None,
) -> Contents:
    """Return what the files of a source are, reading those that no `known` one vouches for.

    Where the samples are is found on the way, since every byte comes by, and kept by the digest of
    the archive.

    Args:
        volumes: the files.
        known: contents of earlier looks.
        on_progress: called with (MiB read, MiB to read).
        indexers: by the name of a volume, who finds its samples.
        check: called with each file that is to be read, before any is: it may take hours.

    Raises:
        UserError: a file cannot be read, or `check` or its indexer refuse it.
    """
    vouched = {name: mark for each in known for name, mark in each.files.items()}
    indexes = {digest: data for each in known for digest, data in each.indexes}
    every = list(volumes)
    marks = {volume.name: vouched.get(MARK + volume.name) for volume in every}
    unread = [v for v in every if not _vouches(marks[v.name], v)]
    if check is not None:
        for volume in unread:
            check(volume)
    total, done = sum(volume.size for volume in unread), 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        if on_progress is not None:
            on_progress(done >> 20, total >> 20)

    files: dict[str, FileMark] = {}
    kept: dict[str, bytes] = {}
    for volume in every:
        mark, indexer = marks[volume.name], (indexers or {}).get(volume.name)
        found: Index | None = None
        if mark is None or not _vouches(mark, volume):
            cursor = Cursor(volume, through=True, on_bytes=count)
            found = indexer(cursor) if indexer is not None else None
            mark = FileMark(volume.size, volume.changed, cursor.sha256())
        files[MARK + volume.name] = mark
        if found is not None:
            kept[mark.sha256] = found.to_bytes()
        elif mark.sha256 in indexes:
            kept[mark.sha256] = indexes[mark.sha256]
    return Contents([], files, tuple(sorted(kept.items())))


def _vouches(mark: FileMark | None, volume: Volume) -> bool:
    """Tell whether a file has size and time as they were noted, and so the bytes."""
    same = mark is not None and (mark.size, mark.changed) == (volume.size, volume.changed)
    return same and volume.changed >= 0


def index_of(volume: Volume, indexer: Indexer, contents: Contents | None) -> Index:
    """Return where a volume's samples are: as it was noted, or by going over its headers."""
    if contents is not None:
        mark = contents.files.get(MARK + volume.name)
        data = dict(contents.indexes).get(mark.sha256) if mark is not None else None
        if data is not None and _vouches(mark, volume):
            index = Index.from_bytes(data, volume.size)
            if index is not None:
                return index
    return indexer(Cursor(volume, through=volume.far))


class ArchiveSource:
    """Images of archives, in the order of the archives.

    Args:
        spec: as in the recipe.
        config: the recipe's `data`.
        seed: splits what is not split.
        parts: by split (`train` and `held-out`, or `all`), volumes and where their samples are.
        classes: names of the classes.
        label_of: from a label as it is written in an archive to a class; None: no class.
        ignored: what was left out before.
        aliases: other names of classes, such as synsets, and their labels.

    Raises:
        UserError: no images, or too few of them in a class.
    """

    def __init__(
        self,
        spec: str,
        config: ImageSettings,
        seed: int,
        parts: Mapping[str, Sequence[tuple[Volume, Index]]],
        classes: list[str],
        label_of: Mapping[str, int],
        ignored: Mapping[str, int],
        aliases: Mapping[str, int] | None = None,
    ) -> None:
        self.spec, self.classes, self.aliases = printable(spec), classes, dict(aliases or {})
        self._config = config
        self._volumes = [volume for pairs in parts.values() for volume, _ in pairs]
        self._indexes = [index for pairs in parts.values() for _, index in pairs]
        self._ends = np.cumsum([len(index) for index in self._indexes])
        counted = Counter(dict(ignored))
        for index in self._indexes:
            counted.update(index.ignored)
        self.ignored = dict(sorted(counted.items()))
        labels = [
            np.asarray([label_of[label] for label in index.labels], np.int64)[index.codes]
            for index in self._indexes
        ]
        of_row = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        held_out = self._held_out(parts, of_row, config, seed)
        names = _Names(self._indexes, self._ends)
        lengths = [index.lengths for index in self._indexes]
        sizes = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
        self.items = ItemTable(held_out, of_row, len(classes), names, sizes)

    def _held_out(
        self,
        parts: Mapping[str, Sequence[tuple[Volume, Index]]],
        labels: NDArray[np.int64],
        config: ImageSettings,
        seed: int,
    ) -> NDArray[np.bool_]:
        if "all" not in parts:
            pieces = [
                np.full(sum(len(index) for _, index in pairs), split == "held-out")
                for split, pairs in parts.items()
            ]
            return np.concatenate(pieces)
        return seeded_held_out(self.spec, labels, self.classes, config.held_out_fraction, seed)

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield images, each uint8 [H, W, C]."""
        far = any(volume.far for volume in self._volumes)
        return read_items(items, self._fetch, self._config, far)

    def _fetch(self, item: Item) -> bytes:
        """Return the bytes of an item's file. Raises `BadImageError`, or `UserError`."""
        row = self.items.row(item)
        part = int(np.searchsorted(self._ends, row, side="right"))
        index = self._indexes[part]
        within = row - (int(self._ends[part - 1]) if part else 0)
        length = int(index.lengths[within])
        check_length(length)
        if not length:
            raise BadImageError("empty file")
        offset, checksum = int(index.offsets[within]), int(index.checksums[within])
        return _as_seen(self._volumes[part], offset, length, checksum, item.name)


def _as_seen(volume: Volume, offset: int, length: int, checksum: int, name: str) -> bytes:
    """Return an image's bytes, those that went into the archive's digest. Raises `UserError`."""
    for _ in range(READS):
        data = volume.read(offset, length)
        if checksum < 0 or zlib_ng.crc32(data) == checksum:
            return data
        time.sleep(PAUSE_SECONDS)
    raise UserError(
        f"{volume.place}: the bytes of {name!r} are not those that were there when its digest was "
        "taken: it was changed or is damaged; give the same command again, or get it again"
    )


def seeded_held_out(
    spec: str, labels: NDArray[np.int64], classes: list[str], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Choose a part of each class, by the seed.

    Args:
        spec: the source, for people.
        labels: of each row, int64 [N].
        classes: names.
        fraction: of each class.
        seed: of the choice.

    Raises:
        UserError: a class has fewer than two images.
    """
    sizes = np.bincount(labels, minlength=len(classes))
    lonely = [name for name, size in zip(classes, sizes, strict=True) if size < 2]
    if lonely:
        raise UserError(
            f"{spec}: a class needs at least 2 images, one to train and one to hold out; fewer "
            f"in {shown_names(lonely)}"
        )
    chosen = stratified_held_out(sizes.tolist(), fraction, seed)
    rows = np.argsort(labels, kind="stable")
    starts = np.cumsum(sizes) - sizes
    held_out = np.zeros(len(labels), np.bool_)
    for start, positions in zip(starts, chosen, strict=True):
        held_out[rows[start + positions]] = True
    return held_out


class _Names(Made[str]):
    """Names of all rows: those of one index after the other."""

    def __init__(self, indexes: list[Index], ends: NDArray[np.int64]) -> None:
        self._indexes, self._ends = indexes, ends

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _made(self, place: int) -> str:
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._indexes[part].names[place - (int(self._ends[part - 1]) if part else 0)]

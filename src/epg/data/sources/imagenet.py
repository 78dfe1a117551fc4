"""ImageNet as it is handed out: a tar of 1,000 tars, a tar of validation images, and the devkit.

Nothing is unpacked: one pass over the headers of the outer tar and of those within finds every
image. The set is taken for the whole one, and its counts are checked, unless a `counts.json` beside
the tars says how many a smaller one has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from epg.data.settings import ImageSettings
from epg.data.sources.archives import ArchiveSource, archive_contents, index_of
from epg.data.sources.base import OnRead, Source, SourceNotFound
from epg.data.sources.contents import Contents
from epg.data.sources.cursor import Cursor
from epg.data.sources.imagenet_classes import lemmas, short_names
from epg.data.sources.imagenet_truth import FILES, SYNSET, read_truth
from epg.data.sources.index import Index, IndexWriter
from epg.data.sources.tar import Member, members
from epg.data.sources.volumes import Volume, absolute_location, find_volumes
from epg.documents import DocumentError, fields, parse_object
from epg.errors import UserError, printable, shown_names

USAGE = "imagenet:FOLDER|URI with ImageNet's two tars and the devkit"
TRAIN, VAL, COUNTS = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "counts.json"
_CLASS_TAR = re.compile(r"(?:\./)?(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"(?:\./)?(?:val/)?ILSVRC2012_val_(\d{8})\.JPEG")
_IMAGE = re.compile(r".*\.(?:jpe?g|png|webp)", re.IGNORECASE)


class _Counts(NamedTuple):
    """How many classes and images a set has."""

    classes: int
    train: int
    val: int


_WHOLE = _Counts(1000, 1_281_167, 50_000)


def open(
    location: str, config: ImageSettings, seed: int, contents: Contents | None = None
) -> Source:
    """Return ImageNet's images; validation images are held out. Raises `UserError`."""
    spec = printable(f"imagenet:{location}")
    files = _files(location)
    train = index_of(files[TRAIN], index_train, contents)
    val = index_of(files[VAL], index_val, contents)
    synsets = sorted(train.labels)
    truth, told_by = read_truth(spec, files)
    numbers = [int(label) for label in val.labels]
    if set(numbers) != set(truth):
        raise _unlike_truth(files, truth, told_by, numbers)
    _check_counts(files, synsets, len(train), len(val))
    place = {synset: label for label, synset in enumerate(synsets)}
    unknown = sorted(set(truth.values()) - set(place))
    if unknown:
        raise UserError(
            f"{files[VAL].place}: by {told_by}, it has images of {shown_names(unknown)}, of which "
            f"{TRAIN} has none: they are not of one set"
        )
    names = short_names(synsets)
    label_of = {**place, **{label: place[truth[int(label)]] for label in val.labels}}
    parts = {"train": [(files[TRAIN], train)], "held-out": [(files[VAL], val)]}
    return ArchiveSource(spec, config, seed, parts, names, label_of, {}, aliases=place)


def count_classes(location: str) -> int:
    """Return the number of class tars, without looking into them. Raises `UserError`."""
    cursor = Cursor(_files(location)[TRAIN], through=False)
    return sum(1 for _ in _class_tars(cursor, Counter()))


def contents(location: str, known: Iterable[Contents], on_progress: OnRead | None) -> Contents:
    """Return the digests of all files, and where the tars' images are. Raises `UserError`."""
    indexers = {TRAIN: index_train, VAL: index_val}
    return archive_contents(_files(location).values(), known, on_progress, indexers)


def absolute(location: str) -> str:
    """Return the absolute path; a URI is as it is."""
    return absolute_location(location)


def _files(location: str) -> dict[str, Volume]:
    """Return ImageNet's files by name. Raises `SourceNotFound` where both tars are missing."""
    spec = printable(f"imagenet:{location}")
    wanted = {TRAIN, VAL, COUNTS, *FILES}
    try:
        found = {v.name: v for v in find_volumes(spec, location, lambda name: name in wanted)}
    except SourceNotFound as error:
        raise SourceNotFound(f"{error}; give the folder or URI that has {TRAIN}") from None
    missing = [name for name in (TRAIN, VAL) if name not in found]
    if len(missing) == 2:
        raise SourceNotFound(
            f"{spec}: neither {TRAIN} nor {VAL} there; images in folders, as Kaggle's, are read by "
            "folder:PATH, where PATH has train/ and val/ with one sub-folder per class"
        )
    if missing:
        raise UserError(f"{spec}: no {missing[0]} there: put it beside the other tar")
    return found


def _class_tars(cursor: Cursor, ignored: Counter[str]) -> Iterator[tuple[str, Member]]:
    """Yield synset and member of each class. Raises `UserError` where it is not the train tar."""
    seen: set[str] = set()
    for member in members(cursor, ignored):
        match = _CLASS_TAR.fullmatch(member.name)
        if match is None:
            hint = ""
            if _VAL_IMAGE.fullmatch(member.name):
                hint = f": it is {VAL} under another name"
            raise UserError(
                f"{cursor.volume.place}: {member.name[:100]!r} in it is no tar of a class such as "
                f"n01440764.tar{hint}: get {TRAIN} of ILSVRC 2012"
            )
        if match[1] in seen:
            raise UserError(f"{cursor.volume.place}: {member.name} is in it twice: get it again")
        seen.add(match[1])
        yield match[1], member


def index_train(cursor: Cursor) -> Index:
    """Find the images of all classes; labels are synsets. Raises `UserError`."""
    writer = IndexWriter()
    for synset, tar in _class_tars(cursor, writer.ignored):
        seen: set[str] = set()
        for member in members(cursor, writer.ignored, tar.offset + tar.length):
            if not _IMAGE.fullmatch(member.name):
                writer.ignored["member that is no image by its name"] += 1
                continue
            name = member.name.rpartition("/")[2]
            if SYNSET.match(name) and not name.startswith(synset):
                raise UserError(
                    f"{cursor.volume.place}: {synset}.tar has {name!r}, an image of another class: "
                    "get it again"
                )
            if name in seen:
                writer.ignored["image whose name is there twice in its class"] += 1
                continue
            seen.add(name)
            checksum = cursor.checksum(member.length)
            writer.add(f"{synset}/{name}", synset, member.offset, member.length, checksum)
        if not seen:
            raise UserError(f"{cursor.volume.place}: {synset}.tar has no images: get it again")
    return writer.index()


def index_val(cursor: Cursor) -> Index:
    """Find the validation images; a label is the image's number. Raises `UserError`."""
    writer = IndexWriter()
    seen: set[int] = set()
    for member in members(cursor, writer.ignored):
        match = _VAL_IMAGE.fullmatch(member.name)
        if match is None:
            mixed = _CLASS_TAR.fullmatch(member.name)
            hint = f": it is {TRAIN} under another name" if mixed else ""
            raise UserError(
                f"{cursor.volume.place}: {member.name[:100]!r} in it is no validation image such "
                f"as ILSVRC2012_val_00000001.JPEG{hint}: get {VAL} of ILSVRC 2012"
            )
        number = int(match[1])
        if number in seen:
            raise UserError(f"{cursor.volume.place}: {member.name} is in it twice: get it again")
        seen.add(number)
        name = f"val/{match[0].rpartition('/')[2]}"
        checksum = cursor.checksum(member.length)
        writer.add(name, str(number), member.offset, member.length, checksum)
    return writer.index()


def _unlike_truth(
    files: Mapping[str, Volume], truth: Mapping[int, str], told_by: str, numbers: list[int]
) -> UserError:
    missing = sorted(set(truth) - set(numbers))
    first = f"image {missing[0]} is missing" if missing else "it has images that no line tells of"
    return UserError(
        f"{files[VAL].place}: {len(numbers):,} images, but {told_by} tells of {len(truth):,}; "
        f"{first}: they must be of one set"
    )


def _check_counts(files: Mapping[str, Volume], synsets: list[str], train: int, val: int) -> None:
    """Raise `UserError` unless there are as many images as the set claims to have."""
    found, expected = _Counts(len(synsets), train, val), _WHOLE
    if COUNTS in files:
        expected = _claimed(files[COUNTS])
    elif len(synsets) == _WHOLE.classes and list(lemmas()) != synsets:
        strange = sorted(set(synsets) - set(lemmas()))
        raise UserError(
            f"{files[TRAIN].place}: {shown_names(strange)}: no class of ILSVRC 2012; for a set of "
            f"your own write {COUNTS} beside it"
        )
    if found == expected:
        return
    missing = sorted(set(lemmas()) - set(synsets)) if expected == _WHOLE else []
    raise UserError(
        f"{files[TRAIN].place}: {found.classes:,} classes, {found.train:,} training and "
        f"{found.val:,} validation images; {'ImageNet' if expected == _WHOLE else COUNTS} has "
        f"{expected.classes:,}, {expected.train:,} and {expected.val:,}"
        f"{f' (missing: {shown_names(missing)})' if missing else ''}: get the tars again, or, if "
        f'it is meant, write {{"classes": {found.classes}, "train": {found.train}, "val": '
        f"{found.val}}} into {COUNTS} beside them; data.classes and data.limit take a part of a "
        "whole one"
    )


def _claimed(volume: Volume) -> _Counts:
    try:
        said = fields(
            parse_object(volume.read(0, min(volume.size, 10_000))),
            {"classes": int, "train": int, "val": int},
        )
    except DocumentError as error:
        raise UserError(
            f'{volume.place}: {error}; it says {{"classes": N, "train": N, "val": N}}'
        ) from None
    return _Counts(**said)

"""Tars as webdataset writes them: `KEY.jpg` beside `KEY.cls` (or `KEY.json`), in any order.

A label is the text of `.cls`, or what `.json` has under `label`, `cls`, `class` or `class_name`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from epg.data.settings import ImageSettings
from epg.data.sources.archives import ArchiveSource, archive_contents, index_of
from epg.data.sources.base import OnRead, Source, SourceNotFound
from epg.data.sources.contents import Contents
from epg.data.sources.cursor import Cursor
from epg.data.sources.index import Index, IndexWriter
from epg.data.sources.labels import NAMES_FILE, classes_of, read_names
from epg.data.sources.tar import Member, members
from epg.data.sources.volumes import (
    Volume,
    absolute_location,
    find_volumes,
    split_volumes,
)
from epg.errors import UserError, printable

USAGE = "webdataset:FOLDER|URI with tars of KEY.jpg and KEY.cls"
_IMAGES = {"jpg", "jpeg", "png", "webp", "ppm", "img", "image"}
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)$")
_LABEL_KEYS = ("label", "cls", "class", "class_name")
_MOST_LABEL_BYTES = 1024**2


def open(
    location: str, config: ImageSettings, seed: int, contents: Contents | None = None
) -> Source:
    """Return the tars' images. Raises `UserError` for unusable tars."""
    spec = f"webdataset:{location}"
    found = _look(location, contents)
    return ArchiveSource(
        spec, config, seed, found.parts, found.classes, found.label_of, found.ignored
    )


def count_classes(location: str) -> int:
    """Return the number of classes without opening an image. Raises `UserError`."""
    return len(_look(location, None).classes)


def contents(location: str, known: Iterable[Contents], on_progress: OnRead | None) -> Contents:
    """Return the digests of all tars, and where their images are. Raises `UserError`."""
    volumes = _volumes(location)
    tars = {volume.name: index_tar for volume in volumes if volume.name.endswith(".tar")}
    return archive_contents(volumes, known, on_progress, tars)


def absolute(location: str) -> str:
    """Return the absolute path; a URI is as it is."""
    return absolute_location(location)


class _Found(NamedTuple):
    parts: dict[str, list[tuple[Volume, Index]]]
    classes: list[str]
    label_of: dict[str, int]
    ignored: dict[str, int]


def _volumes(location: str) -> list[Volume]:
    spec = f"webdataset:{location}"
    found = find_volumes(spec, location, lambda name: name.endswith(".tar") or name == NAMES_FILE)
    if not any(volume.name.endswith(".tar") for volume in found):
        raise SourceNotFound(f"{spec}: no .tar there; give the folder or URI that has them")
    return found


def _look(location: str, known: Contents | None) -> _Found:
    """Find all tars, their samples and their classes."""
    spec = printable(f"webdataset:{location}")
    volumes = _volumes(location)
    named = next((read_names(v) for v in volumes if v.name == NAMES_FILE), None)
    splits, ignored = split_volumes(v for v in volumes if v.name != NAMES_FILE)
    parts = {
        split: [(volume, index_of(volume, index_tar, known)) for volume in of_split]
        for split, of_split in splits.items()
    }
    labels = {label for pairs in parts.values() for _, index in pairs for label in index.labels}
    classes, label_of = classes_of(spec, labels, named)
    return _Found(parts, classes, label_of, ignored)


class _Group:
    """What was seen of one key: its image, its label, or both."""

    __slots__ = ("checksum", "image", "label")

    def __init__(self) -> None:
        self.image: Member | None = None
        self.label: str | None = None
        self.checksum = -1


def index_tar(cursor: Cursor) -> Index:
    """Find the samples of one tar. Raises `UserError` where it is damaged, or a key is there twice.

    Members of one key may stand anywhere in the archive, as other programs' tars have them.
    """
    writer = IndexWriter()
    groups: dict[str, _Group] = {}
    ignored = writer.ignored
    for member in members(cursor, ignored):
        match = _KEY.match(member.name)
        kind = match[2].lower() if match else ""
        if match is None or (kind not in _IMAGES and kind not in ("cls", "json")):
            ignored["member that is no image and no label"] += 1
            continue
        group = groups.setdefault(match[1], _Group())
        if kind in _IMAGES:
            if group.image is not None:
                raise UserError(
                    f"{cursor.volume.place}: {match[1]!r} has two images, "
                    f"{group.image.name!r} and {member.name!r}: a key is one sample"
                )
            group.image, group.checksum = member, cursor.checksum(member.length)
        else:
            label = _label(cursor, member, kind)
            if group.label is None or kind == "cls":
                group.label = label if label is not None else group.label
    for group in groups.values():
        if group.image is None:
            ignored["label without an image"] += 1
        elif group.label is None:
            ignored["image without a label"] += 1
        else:
            name, offset, length = group.image
            writer.add(name, group.label, offset, length, group.checksum)
    return writer.index()


def _label(cursor: Cursor, member: Member, kind: str) -> str | None:
    """Return the label that a member says; None where its JSON has none. Raises `UserError`."""
    if member.length > _MOST_LABEL_BYTES:
        raise UserError(
            f"{cursor.volume.place}: {member.name!r} has {member.length:,} bytes, a label at most "
            f"{_MOST_LABEL_BYTES:,}"
        )
    data = cursor.read(member.length)
    try:
        if kind == "json":
            said = json.loads(data)
            value = next((said[key] for key in _LABEL_KEYS if key in said), None)
            text = "" if value is None else str(value)
            if value is None or isinstance(value, bool | dict | list | float):
                return None
        else:
            text = data.decode("utf-8")
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"{cursor.volume.place}: {member.name!r} is no label: {data[:40]!r}"
        ) from None
    text = text.strip()
    if not text or len(text) > 200 or "\n" in text:
        raise UserError(f"{cursor.volume.place}: {member.name!r} is no label: {data[:40]!r}")
    return printable(text)

"""The side index of a shard: where each image lies, how long it is, its label and its CRC-32.

Plain text with tabs, one line a sample, in the order of the tar. With it a reader takes any part
of a shard by one ranged read, and knows of every image whether its bytes are the ones written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from epg.data.shard_format import ShardError, decode_label, read_members, split_name

_COLUMNS = "name\toffset\tlength\tlabel\tcrc32\n"
_LONGEST = 2**31  # bytes of one image


class Entry(NamedTuple):
    """One line: name with extension, offset and length of the image in bytes, label, CRC-32."""

    name: str
    offset: int
    length: int
    label: int
    crc32: int


class ShardIndex(NamedTuple):
    """The lines of an index as columns [N]; `names` as bytes."""

    names: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    checksums: NDArray[np.uint32]

    def name(self, row: int) -> str:
        """Return the name of a row, with extension."""
        return bytes(self.names[row]).decode("ascii")


def write_index(entries: Iterable[Entry]) -> bytes:
    """Return the index's content."""
    lines = [f"{e.name}\t{e.offset}\t{e.length}\t{e.label}\t{e.crc32:08x}\n" for e in entries]
    return (_COLUMNS + "".join(lines)).encode("ascii")


def read_index(data: bytes, size: int, num_classes: int, split: str) -> ShardIndex:
    """Return the index of a shard of `size` bytes. Raises `ShardError` unless all of it is sound.

    Args:
        data: what `write_index` wrote.
        size: bytes of the shard; nothing may lie beyond.
        num_classes: labels are below it.
        split: that all samples belong to.
    """
    try:
        first, _, rest = data.decode("ascii").partition("\n")
        if f"{first}\n" != _COLUMNS:
            raise ShardError("an index without the columns that epg writes")
        rows = [line.split("\t") for line in rest.splitlines()]
        entries = [Entry(n, int(o), int(s), int(la), int(c, 16)) for n, o, s, la, c in rows]
    except ShardError:
        raise
    except ValueError:  # no text, another number of columns, no numbers
        raise ShardError("an index with a damaged line") from None
    return _checked(entries, size, num_classes, split)


def index_of(data: bytes | bytearray, num_classes: int, split: str) -> ShardIndex:
    """Return the index of a shard that has none beside it, from its bytes. Raises `ShardError`.

    Args:
        data: the whole tar.
        num_classes: labels are below it.
        split: that all samples belong to.
    """
    return _checked(list(_entries(data, num_classes)), len(data), num_classes, split)


def _entries(data: bytes | bytearray, num_classes: int) -> Iterator[Entry]:
    members = read_members(data)
    for image in members:
        label = next(members, None)
        if image.extension == "cls" or label is None or label[:2] != (image.key, "cls"):
            raise ShardError(
                f"at sample {image.key}: a sample is one image, such as .npy, followed by its .cls"
            )
        yield Entry(
            f"{image.key}.{image.extension}",
            image.offset,
            len(image.content),
            _label(image.key, label.content, num_classes),
            zlib_ng.crc32(image.content),
        )


def _label(key: str, content: memoryview, num_classes: int) -> int:
    try:
        return decode_label(content, num_classes)
    except ShardError as error:
        raise ShardError(f"at sample {key}: {error}") from None


def _checked(entries: list[Entry], size: int, num_classes: int, split: str) -> ShardIndex:
    """Return columns. Raises `ShardError` for names, places or labels that cannot be."""
    end = 0
    for entry in entries:
        key, extension = split_name(entry.name)
        if extension == "cls" or not key.startswith(f"{split}/"):
            raise ShardError(f"at sample {key}: the sample is not of the split {split!r}")
        if not end < entry.offset <= entry.offset + entry.length <= size:
            raise ShardError(f"at sample {key}: it lies outside of the shard or within another")
        if not (0 <= entry.label < num_classes and entry.length < _LONGEST):
            raise ShardError(f"at sample {key}: label {entry.label}, length {entry.length}")
        if not 0 <= entry.crc32 < 2**32:
            raise ShardError(f"at sample {key}: no CRC-32")
        end = entry.offset + entry.length
    names, offsets, lengths, labels, checksums = zip(*entries, strict=True) if entries else [()] * 5
    return ShardIndex(
        np.array(names, np.bytes_),
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        np.array(labels, np.int64),
        np.array(checksums, np.uint32),
    )

"""What a shard looks like: a plain ustar with two members a sample, the image and its label.

The image is KEY.npy (uint8 [H, W, C] in numpy's own format 1.0), KEY.png, KEY.jpg or KEY.webp;
KEY.cls is the label in decimal.
Keys are ours (`train/0003-0000012`: split, label, number within the class) and hold no dot, since
webdataset ends a key at the first one. The same samples give the same bytes on every machine;
nothing is ever extracted to disk or unpickled.

Headers of arrays are numpy's own. Those of tar members are built and read here: tarfile leaves the
device fields empty where we have always written zeros, which would change the digest of every
shard, and takes four times as long to read one.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
END = bytes(2 * BLOCK)
#: Of images, as they may be stored.
IMAGE_EXTENSIONS = ("npy", "png", "jpg", "webp")
_MEMBER = re.compile(r"((?:train|held-out)/[0-9]{1,9}-[0-9]{1,12})\.(npy|png|jpg|webp|cls)")

# Fields of a header that are always the same, in their order around size and checksum.
_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\x0000000000000\0"
_REST = b"0".ljust(101, b"\0") + b"ustar\x0000".ljust(72, b"\0") + b"0000000\0" * 2 + bytes(167)
_FIXED_SUM = sum(_OWNER + _TIME + _REST) + 8 * 32  # the checksum counts its own field as spaces


class ShardError(ValueError):
    """The bytes are not a shard of ours; the message says where and why."""


class Member(NamedTuple):
    """One file of a tar: key without extension, extension, content, and where that begins."""

    key: str
    extension: str
    content: memoryview
    offset: int


def sample_key(split: str, label: int, number: int) -> str:
    """Return the key of a sample: split, label, and its number within the class."""
    return f"{split}/{label:04d}-{number:07d}"


@functools.lru_cache(maxsize=8)  # a data set has one shape
def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the bytes that make `shape` × uint8 a numpy file of format 1.0."""
    stream = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def encode_pixels(image: NDArray[np.uint8]) -> bytes:
    """Return an image uint8 [H, W, C] as a numpy file."""
    assert image.dtype == np.uint8
    assert image.ndim == 3
    return b"".join((npy_header(image.shape), np.ascontiguousarray(image).data))


def encode_sample(key: str, image: NDArray[np.uint8], label: int) -> bytes:
    """Return the tar records of one sample: image uint8 [H, W, C] as it is, and label."""
    return b"".join(sample_records(key, "npy", encode_pixels(image), label))


def sample_records(key: str, extension: str, content: bytes, label: int) -> tuple[bytes, ...]:
    """Return the tar records of one sample whose image is stored as `content`.

    They are the image's header, `content` itself, and the rest.
    """
    text = str(label).encode("ascii")
    after = bytes(-len(content) % BLOCK) + _ustar_header(f"{key}.cls", len(text)) + text
    header = _ustar_header(f"{key}.{extension}", len(content))
    return header, content, after + bytes(-len(text) % BLOCK)


def _ustar_header(name: str, size: int) -> bytes:
    """Return a 512-byte header of a regular file, mode 644, owner 0, time 0 (POSIX.1-1988)."""
    encoded = name.encode("ascii")
    assert len(encoded) <= 100, "our keys are short"
    digits = b"%011o" % size
    total = _FIXED_SUM + sum(encoded) + sum(digits)
    return b"".join((encoded.ljust(100, b"\0"), _OWNER, digits, _TIME, b"%06o\0 " % total, _REST))


def read_members(data: bytes | bytearray) -> Iterator[Member]:
    """Yield the members of a tar in memory. Raises `ShardError` for anything but our own kind.

    Links, devices, folders, sparse files, PAX and GNU extensions, odd names and sizes beyond the
    end are refused, whatever they hold.
    """
    view = memoryview(data)
    position = 0
    while position + BLOCK <= len(view):
        header = bytes(view[position : position + BLOCK])
        if header == bytes(BLOCK):
            return
        key, extension, size = _parse_header(header, position)
        start = position + BLOCK
        if start + size > len(view):
            raise ShardError(f"member {key}.{extension} goes beyond the end of the tar")
        yield Member(key, extension, view[start : start + size], start)
        position = start + size + -size % BLOCK
    raise ShardError("the tar has no end mark: it was cut")


def _parse_header(header: bytes, position: int) -> tuple[str, str, int]:
    name = header[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    if header[257:263] != b"ustar\0" and header[257:263] != b"ustar ":
        raise ShardError(f"no tar header at byte {position}")
    try:
        stored, size = int(header[148:156].rstrip(b"\0 "), 8), int(header[124:135], 8)
    except ValueError:
        raise ShardError(f"a damaged tar header at byte {position}") from None
    if stored != sum(header) - sum(header[148:156]) + 8 * 32:
        raise ShardError(f"wrong checksum in the tar header at byte {position}")
    if header[156:157] not in (b"0", b"\0"):
        kind = header[156:157].decode("ascii", "backslashreplace")
        raise ShardError(f"member {name!r} is not a regular file (type {kind!r})")
    if header[345:500].rstrip(b"\0"):
        raise _odd_name(name)
    if size < 0:
        raise ShardError(f"member {name!r} has a negative size")
    return (*split_name(name), size)


def split_name(name: str) -> tuple[str, str]:
    """Return a member's key and extension. Raises `ShardError` for names that are not ours."""
    match = _MEMBER.fullmatch(name)
    if match is None:
        raise _odd_name(name)
    return match[1], match[2]


def _odd_name(name: str) -> ShardError:
    return ShardError(f"member {name[:100]!r} has a name that epg does not write")


def decode_pixels(content: memoryview, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a view of a numpy file's pixels. Raises `ShardError` unless it is uint8 of `shape`.

    Only the header that we write is known, so no content is interpreted before it is refused.
    """
    expected = npy_header(shape)
    offset = len(expected)
    if content[:offset] != expected:
        raise ShardError(f"no array uint8 {shape} as epg writes it")
    count = math.prod(shape)
    if len(content) != offset + count:
        raise ShardError(f"{len(content) - offset} bytes of pixels, expected {count}")
    return np.frombuffer(content, np.uint8, count, offset).reshape(shape)


def decode_label(content: memoryview, num_classes: int) -> int:
    """Return a label. Raises `ShardError` unless it is a decimal number below `num_classes`."""
    text = bytes(content[:16])
    if not re.fullmatch(rb"[0-9]{1,9}", text) or int(text) >= num_classes:
        raise ShardError(f"label {text!r}, expected 0 to {num_classes - 1}")
    return int(text)

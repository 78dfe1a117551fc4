"""Where the members of a tar are, found by its headers; nothing is unpacked, nothing is written.

Archives come from strangers. Names are only names here: no path is ever made of one. Long names
(GNU and PAX) are read within a bound; links, devices and FIFOs are no members; a header whose sum
or size is wrong ends the reading with one line. Python's `tarfile` reads extended headers of any
size and keeps each member as an object, too much for archives of a million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from epg.data.sources.cursor import Cursor
from epg.errors import UserError, printable

_RECORD = 512
_MOST_EXTENDED = 64 * 1024  # bytes of a long name or of PAX records
_MOST_MEMBERS = 50_000_000
_ODD = {
    b"1": "hard link in an archive",
    b"2": "symbolic link in an archive",
    b"3": "device in an archive",
    b"4": "device in an archive",
    b"6": "FIFO in an archive",
    b"S": "sparse file in an archive",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_MAGICS = {b"\xff\xd8": "a JPEG image", b"\x89P": "a PNG image", b"<!": "a web page",
           b"<h": "a web page", b"PK": "a ZIP archive"}  # fmt: skip


class Member(NamedTuple):
    """A regular file within a volume: name, and where its bytes are."""

    name: str
    offset: int
    length: int


def members(cursor: Cursor, ignored: Counter[str], end: int | None = None) -> Iterator[Member]:
    """Yield the regular files of a tar that begins at the cursor; stand behind each one's header.

    What the reader does not read of a member is skipped.

    Args:
        cursor: stands at the first header; at the end it stands behind the archive's mark.
        ignored: counts, by reason, what is no regular file.
        end: position where the archive ends; the volume's end unless it is one within another.

    Raises:
        UserError: it is no tar, damaged, cut, or absurd.
    """
    end = cursor.volume.size if end is None else end
    first, count = cursor.position, 0
    extended: dict[str, str] = {}
    while True:
        start = cursor.position
        header = cursor.read(min(_RECORD, end - start))
        if len(header) < _RECORD:
            raise _cut(cursor, first, "its end has no mark")
        if not header.strip(b"\0"):
            return
        _check_sum(cursor, header, start, first)
        kind = header[156:157]
        about_the_next = kind in (b"L", b"K", b"x", b"X", b"g")
        size = _number(header[124:136], cursor, start)
        if not about_the_next:
            size = _pax_size(extended, size, cursor, start)
        if cursor.position + size > end:
            name = extended.get("path") or _name(header)
            raise _cut(cursor, first, f"{name[:100]!r} has {size:,} bytes, more than are left")
        body = cursor.position
        if about_the_next:
            extended = _extend(extended, kind, size, cursor, start)
        else:
            name = extended.pop("path", "") or _name(header)
            sparse = any(key.startswith("GNU.sparse") for key in extended)
            extended = {}
            count += 1
            if count > _MOST_MEMBERS:
                raise UserError(
                    f"{cursor.volume.place}: it has more than {_MOST_MEMBERS:,} members"
                )
            if kind in _ODD or sparse:
                ignored[_ODD[b"S"] if sparse else _ODD[kind]] += 1
            elif kind in (b"0", b"\0", b"7"):
                yield Member(name, body, size)
            elif kind != b"5":  # a folder is no loss
                ignored["member of an unknown kind in an archive"] += 1
        padded = body + -(-size // _RECORD) * _RECORD
        if cursor.position < padded:
            cursor.skip(padded - cursor.position)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return printable(name.decode("utf-8", "surrogateescape"))


def _check_sum(cursor: Cursor, header: bytes, start: int, first: int) -> None:
    """Raise `UserError` unless the header's sum is right."""
    try:
        claimed = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        claimed = -1
    if claimed == sum(header) - sum(header[148:156]) + 8 * 32:
        return
    if start == first == 0:
        kind = _COMPRESSED.get(header[:2])
        if kind is not None:
            raise UserError(
                f"{cursor.volume.place}: it is compressed ({kind}); parts of it cannot be read by "
                "themselves: unpack the compression, keep the tar"
            )
        what = _MAGICS.get(header[:2].lower() if header[:1] == b"<" else header[:2], "")
        raise UserError(
            f"{cursor.volume.place}: it is no tar archive{f', but {what}' if what else ''}: "
            "get it again"
        )
    raise UserError(
        f"{cursor.volume.place}: damaged at byte {start:,}, where the header of a member should "
        "be: get it again"
    )


def _number(field: bytes, cursor: Cursor, start: int) -> int:
    """Read a size: octal, or binary where the highest bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        number = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        number = -1
    if number < 0:
        raise UserError(
            f"{cursor.volume.place}: damaged at byte {start:,}: the size of a member is "
            f"{field[:12]!r}: get it again"
        )
    return number


def _extend(
    before: dict[str, str], kind: bytes, size: int, cursor: Cursor, start: int
) -> dict[str, str]:
    """Return what a header before the real one says: GNU's long name, or PAX records."""
    if kind in b"gK":  # what holds for all members, such as a comment; the name of a link
        return before
    if size > _MOST_EXTENDED:
        raise UserError(
            f"{cursor.volume.place}: the extended header at byte {start:,} has {size:,} bytes, at "
            f"most {_MOST_EXTENDED:,} are read: make the archive anew"
        )
    data = cursor.read(size)
    if kind == b"L":
        return {**before, "path": _text(data.partition(b"\0")[0])}
    return {**before, **_pax(data, cursor, start)}


def _pax(data: bytes, cursor: Cursor, start: int) -> dict[str, str]:
    found = {}
    while data.strip(b"\0"):
        length, space, _ = data.partition(b" ")
        count = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = data[len(length) + 1 : count].partition(b"=")
        if not space or not equals or count > len(data) or value[-1:] != b"\n":
            raise UserError(
                f"{cursor.volume.place}: damaged at byte {start:,}: no PAX header: get it again"
            )
        found[_text(key)] = _text(value[:-1])
        data = data[count:]
    return found


def _pax_size(extended: dict[str, str], size: int, cursor: Cursor, start: int) -> int:
    text = extended.get("size")
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UserError(
            f"{cursor.volume.place}: damaged at byte {start:,}: a size of {text[:20]!r}: get it "
            "again"
        )
    return int(text)


def _text(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "surrogateescape"))


def _cut(cursor: Cursor, first: int, what: str) -> UserError:
    inside = f" (in the archive within it that begins at byte {first:,})" if first else ""
    return UserError(
        f"{cursor.volume.place}: the archive is cut after {cursor.volume.size:,} bytes{inside}: "
        f"{what}: get it again, whole"
    )

"""Headers of tars: what others write is found; what is hostile ends with a line, or stays out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epg.data.sources.cursor import Cursor
from epg.data.sources.tar import Member, members
from epg.data.sources.volumes import LocalVolume
from epg.errors import UserError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def found(
    path: Path, through: bool = False, ignored: Counter[str] | None = None
) -> dict[str, bytes]:
    volume = LocalVolume(path, path.name)
    cursor = Cursor(volume, through)
    every = list(members(cursor, Counter() if ignored is None else ignored))
    return {member.name: volume.read(member.offset, member.length) for member in every}


def tar_of(path: Path, *infos: tarfile.TarInfo | tuple[str, bytes], format="gnu") -> Path:
    with tarfile.open(path, "w", format=FORMATS[format]) as archive:
        for info in infos:
            if isinstance(info, tuple):
                name, content = info
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.addfile(info)
    return path


def odd(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_members_are_where_tarfile_has_put_them(tmp_path, format, through):
    long = "d" * 90 + "/" + "n" * 95 if format == "ustar" else "a/" * 90 + "é" * 100
    content = {"a": b"1", long: b"x" * 513, "empty": b"", "b/c": bytes(1024)}
    path = tar_of(tmp_path / "a.tar", *content.items(), format=format)
    assert found(path, through) == content


def test_a_tar_within_a_tar(tmp_path):
    inner = tar_of(tmp_path / "inner.tar", ("x", b"12"), ("y", b"345")).read_bytes()
    path = tar_of(tmp_path / "outer.tar", ("one", inner), ("two", inner))
    cursor = Cursor(LocalVolume(path, "outer"), through=True)
    names = []
    for member in members(cursor, Counter()):
        for inside in members(cursor, Counter(), member.offset + member.length):
            names.append((member.name, inside.name, cursor.read(inside.length)))
    assert names == [(o, n, c) for o in ("one", "two") for n, c in (("x", b"12"), ("y", b"345"))]
    assert cursor.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_names_are_only_names_and_what_is_no_file_is_left_out(tmp_path):
    path = tar_of(
        tmp_path / "hostile.tar",
        ("../../escape", b"1"),
        ("/absolute", b"2"),
        ("with\nnewline \x1b[31m", b"3"),
        odd("link", tarfile.SYMTYPE, "/etc/passwd"),
        odd("hard", tarfile.LNKTYPE, "../../escape"),
        odd("null", tarfile.CHRTYPE),
        odd("disk", tarfile.BLKTYPE),
        odd("pipe", tarfile.FIFOTYPE),
        odd("folder", tarfile.DIRTYPE),
        odd("strange", b"Z"),
        format="pax",
    )
    ignored: Counter[str] = Counter()
    before = sorted(tmp_path.parent.rglob("*"))
    assert list(found(path, ignored=ignored).values()) == [b"1", b"2", b"3"]
    assert sorted(tmp_path.parent.rglob("*")) == before
    assert ignored == {
        "symbolic link in an archive": 1,
        "hard link in an archive": 1,
        "device in an archive": 2,
        "FIFO in an archive": 1,
        "member of an unknown kind in an archive": 1,
    }


def fails(path: Path, match: str) -> None:
    for through in (False, True):
        with pytest.raises(UserError, match=match) as caught:
            found(path, through)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_download_that_was_cut_is_told(tmp_path):
    whole = tar_of(tmp_path / "a.tar", ("a", bytes(5000)), ("b", bytes(5000))).read_bytes()
    path = tmp_path / "cut.tar"
    for length in (3000, 512 + 5120 + 600):
        path.write_bytes(whole[:length])
        fails(path, rf"cut after {length:,} bytes: '[ab]' has 5,000 bytes, more than are left")
    for length in (0, 100, 512 + 5120, 512 + 5120 + 100):
        path.write_bytes(whole[:length])
        fails(path, rf"cut after {length:,} bytes: its end has no mark: get it again, whole")


def test_what_is_no_tar_is_called_by_its_name(tmp_path):
    path = tmp_path / "x.tar"
    for start, said in (
        (b"\x1f\x8b" + bytes(600), r"it is compressed \(gzip\)"),
        (b"\xff\xd8\xff" + bytes(600), "no tar archive, but a JPEG image"),
        (b"<!DOCTYPE html>" + b" " * 600, "no tar archive, but a web page"),
        (b"hello" * 200, "no tar archive: get it again"),
    ):
        path.write_bytes(start)
        fails(path, said)


def header(**fields) -> bytearray:
    info = tarfile.TarInfo("name")
    for key, value in fields.items():
        setattr(info, key, value)
    return bytearray(info.tobuf(tarfile.GNU_FORMAT))


def signed(head: bytearray) -> bytes:
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def test_sizes_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header(size=2**60)) + bytes(10240))
    fails(path, r"'name' has 1,152,921,504,606,846,976 bytes, more than are left")
    head = header()
    head[124:136] = b"-0000000001\0"
    path.write_bytes(signed(head) + bytes(10240))
    fails(path, "damaged at byte 0: the size of a member is")
    path.write_bytes(bytes(header(type=tarfile.GNUTYPE_LONGNAME, size=100_000)) + bytes(200_000))
    fails(path, r"extended header at byte 0 has 100,000 bytes, at most 65,536 are read")
    for records in (b"99 path=x\n", b"path=x\n", b"9 path=xx", b"12 size=abc\n", b"11 size=-1\n"):
        pax = bytes(header(type=tarfile.XHDTYPE, size=len(records))) + records.ljust(512, b"\0")
        path.write_bytes(pax + bytes(header()) + bytes(1024))
        fails(path, "damaged at byte")


def test_a_flipped_bit_in_a_header_is_seen(tmp_path):
    path = tar_of(tmp_path / "a.tar", ("a", bytes(600)), ("b", bytes(600)))
    data = bytearray(path.read_bytes())
    for place in (3, 130, 512 + 1024 + 5):
        data[place] ^= 4
        path.write_bytes(data)
        fails(path, "no tar archive" if place < 512 else r"damaged at byte 1,536")
        data[place] ^= 4


def test_members_are_not_remembered(tmp_path):
    """A million of them take no memory here: the generator keeps nothing."""
    path = tmp_path / "many.tar"
    one = bytes(header(size=0))
    path.write_bytes(one * 20_000 + bytes(1024))
    assert sum(1 for _ in members(Cursor(LocalVolume(path, "m"), False), Counter())) == 20_000


@given(st.binary(max_size=3000), st.integers(0, 2))
def test_garbage_ends_with_a_line(tmp_path_factory, data, start):
    path = tmp_path_factory.mktemp("garbage") / "x.tar"
    good = bytes(header(size=3)) + b"abc".ljust(512, b"\0")
    path.write_bytes(good * start + data)
    volume = LocalVolume(path, "x")
    with contextlib.suppress(UserError):
        for member in members(Cursor(volume, True), Counter()):
            assert isinstance(member, Member)
            assert 0 <= member.offset <= member.offset + member.length <= volume.size

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epg.data.shard_format import (
    END,
    ShardError,
    decode_label,
    decode_pixels,
    encode_sample,
    npy_header,
    read_members,
    sample_key,
)

IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
SHAPE = (8, 8, 1)
REFUSED = r"no array uint8 \(8, 8, 1\) as epg writes it"


def foreign_tar(*infos: tarfile.TarInfo, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return stream.getvalue()


def entry(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_pythons_tarfile_and_numpy_read_it():
    data = encode_sample(sample_key("train", 3, 12), IMAGE, 3) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["train/0003-0000012.npy", "train/0003-0000012.cls"]
        assert {(m.mode, m.uid, m.mtime, m.uname) for m in tar} == {(0o644, 0, 0, "")}
        image, label = (tar.extractfile(name) for name in tar.getnames())
        assert image is not None
        assert label is not None
        pixels = np.load(io.BytesIO(image.read()), allow_pickle=False)
        assert np.array_equal(pixels, IMAGE)
        assert label.read() == b"3"


@pytest.mark.parametrize("shape", [(8, 8, 1), (256, 256, 3), (65536, 65536, 3)])
def test_array_headers_are_frozen(shape):
    # numpy has padded them in more than one way; shards in a bucket have this one.
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    assert npy_header(shape) == b"\x93NUMPY\x01\x00v\x00" + text.ljust(117) + b"\n"


def test_tar_headers_are_the_standard_librarys_but_for_the_device_fields():
    data = bytearray(encode_sample("train/0-1", IMAGE, 1)[:512])
    info = entry("train/0-1.npy", size=192)
    data[329:345] = bytes(16)
    data[148:156] = b"%06o\0 " % (sum(data) - sum(data[148:156]) + 8 * 32)
    assert bytes(data) == info.tobuf(tarfile.USTAR_FORMAT)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3]),
    st.integers(0, 999),
    st.integers(0, 10**7 - 1),
)
def test_round_trip(height, width, channels, label, number):
    image = np.full((height, width, channels), number % 256, np.uint8)
    key = sample_key("held-out", label, number)
    pixels, cls = read_members(encode_sample(key, image, label) + END)
    assert (pixels.key, pixels.extension, cls.key, cls.extension) == (key, "npy", key, "cls")
    assert np.array_equal(decode_pixels(pixels.content, image.shape), image)
    assert decode_label(cls.content, 1000) == label


def test_tar_of_pythons_tarfile_is_read():
    data = foreign_tar(entry("train/0-1.npy", size=192), entry("train/0-1.cls", size=1))
    assert [member[:2] for member in read_members(data)] == [
        ("train/0-1", "npy"),
        ("train/0-1", "cls"),
    ]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (entry("train/0-1.npy", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a regular"),
        (entry("train/0-1.npy", type=tarfile.LNKTYPE, linkname="x"), "not a regular"),
        (entry("train/0-1.npy", type=tarfile.CHRTYPE), "not a regular"),
        (entry("train/0-1.npy", type=tarfile.FIFOTYPE), "not a regular"),
        (entry("train/0-1.npy", type=tarfile.DIRTYPE), "not a regular"),
        (entry("../train/0-1.npy"), "has a name that epg does not write"),
        (entry("/train/0-1.npy"), "has a name that epg does not write"),
        (entry("train/../0-1.npy"), "has a name that epg does not write"),
        (entry("train/0-1.pkl"), "has a name that epg does not write"),
        (entry("train/0-1.pth"), "has a name that epg does not write"),
        (entry("train/0-1.npy\n"), "has a name that epg does not write"),
        (entry("train/a.b.npy"), "has a name that epg does not write"),
    ],
)
def test_hostile_members_are_refused(info, message):
    with pytest.raises(ShardError, match=message):
        list(read_members(foreign_tar(info)))


def test_pax_and_gnu_extensions_are_refused():
    long = "train/" + "1" * 200 + "-1.npy"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with pytest.raises(ShardError, match="not a regular file"):
            list(read_members(foreign_tar(entry(long), kind=kind)))


def test_name_split_over_the_prefix_field_is_refused():
    name = "train/" * 20 + "0-1.npy"  # over 100 bytes: ustar puts a part into the prefix
    with pytest.raises(ShardError, match="has a name that epg does not write"):
        list(read_members(foreign_tar(entry(name))))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (slice(0, 0), "no end mark"),
        (slice(0, 600), "goes beyond the end"),
        (slice(0, -1024), "no end mark"),
        (slice(512, None), "no tar header at byte 0"),
    ],
)
def test_cut_tars_are_refused(cut, message):
    data = encode_sample("train/0-1", IMAGE, 1) + END
    with pytest.raises(ShardError, match=message):
        list(read_members(data[cut]))


@given(st.integers(0, 511), st.integers(1, 255))
def test_no_altered_header_is_believed(position, change):
    data = bytearray(encode_sample("train/0-1", IMAGE, 1) + END)
    data[position] ^= change
    try:
        members = list(read_members(data))
    except ShardError:
        return
    # What passes says the same: the sum's own padding, or the end of a number.
    assert [member[:2] for member in members] == [("train/0-1", "npy"), ("train/0-1", "cls")]
    assert np.array_equal(decode_pixels(members[0].content, SHAPE), IMAGE)


def numpy_file(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> memoryview:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=True)
    return memoryview(stream.getvalue())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (memoryview(b""), REFUSED),
        (memoryview(b"\x89PNG\r\n\x1a\n" + bytes(200)), REFUSED),
        (numpy_file(np.array([print], dtype=object)), REFUSED),
        (numpy_file(IMAGE.astype(np.float32)), REFUSED),
        (numpy_file(np.zeros((8, 8, 3), np.uint8)), REFUSED),
        (numpy_file(np.asfortranarray(np.zeros((8, 8, 1), np.uint8))), REFUSED),
        (numpy_file(IMAGE, (2, 0)), REFUSED),
        (numpy_file(IMAGE)[:-1], "63 bytes of pixels, expected 64"),
        (memoryview(npy_header(SHAPE) + bytes(65)), "65 bytes of pixels, expected 64"),
    ],
)
def test_other_arrays_are_refused(content, message):
    with pytest.raises(ShardError, match=message):
        decode_pixels(content, SHAPE)


@pytest.mark.parametrize("text", [b"", b"10", b"-1", b"1.0", b" 1", b"1\n", b"x", b"9" * 30])
def test_other_labels_are_refused(text):
    with pytest.raises(ShardError, match="expected 0 to 9"):
        decode_label(memoryview(text), 10)

"""Our JPEG decoder against Pillow's, bit for bit, and what is left to Pillow."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from epg.data.jpeg import decode_jpeg
from epg.data.sources.crop import centre_crop
from epg.data.sources.decode import load_image

#: Width and height, among them such that no block or pair of pixels is whole at the edge.
SIZES = [(256, 256), (500, 375), (33, 17), (8, 8), (1, 1)]


def jpeg(size: tuple[int, int], mode: str = "RGB", **options) -> bytes:
    left, top = size[0] % 100, size[1] % 50
    photograph = Image.fromarray(load_sample_images().images[size[0] % 2])
    cut = photograph.crop((left, top, left + 500, top + 375)).resize(size)
    stream = io.BytesIO()
    cut.convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).reshape(image.height, image.width, -1)


@pytest.mark.parametrize("quality", [10, 75, 97])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}],
    ids=["plain", "progressive", "optimized", "restarts"],
)
def test_colours_are_pillows(quality, subsampling, options):
    for size in SIZES:
        data = jpeg(size, quality=quality, subsampling=subsampling, **options)
        expected = by_pillow(data)
        found = decode_jpeg(memoryview(data), expected.shape)
        assert found is not None
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["plain", "progressive"])
def test_grey_and_colours_stored_as_they_are_too(options):
    for size in SIZES:
        for data in (jpeg(size, "L", **options), jpeg(size, keep_rgb=True, **options)):
            expected = by_pillow(data)
            found = decode_jpeg(data, expected.shape)
            assert found is not None
            assert np.array_equal(found, expected)


def test_pixels_go_where_they_are_wanted():
    data = jpeg((33, 17))
    batch = np.zeros((3, 17, 33, 3), np.uint8)
    assert decode_jpeg(data, (17, 33, 3), out=batch[1]) is not None
    assert np.array_equal(batch[1], by_pillow(data))
    assert not batch[[0, 2]].any()


def test_what_is_not_as_expected_is_left_to_pillow():
    data = jpeg((33, 17))
    for shape in [(17, 33, 1), (33, 17, 3), (17, 32, 3)]:
        assert decode_jpeg(data, shape) is None
    assert decode_jpeg(jpeg((33, 17), "CMYK"), (17, 33, 3)) is None
    assert decode_jpeg(jpeg((33, 17), "L"), (17, 33, 3)) is None
    for damaged in (b"", b"\xff\xd8\xff", b"no image at all" * 9, data[: len(data) // 2]):
        assert decode_jpeg(damaged, (17, 33, 3)) is None


def test_a_flaw_that_pillow_forgives_is_forgiven():
    data = jpeg((64, 48), restart_marker_rows=1)
    where = data.index(b"\xff\xd1")
    flawed = data[:where] + b"\x00\x00" + data[where:]  # bytes that belong to nothing
    assert decode_jpeg(flawed, (48, 64, 3)) is None
    settings = SimpleNamespace(image_size=32, channels=3, crop="exact", encoding="raw")
    with Image.open(io.BytesIO(flawed)) as image:
        expected = np.asarray(centre_crop(image, 32))
    assert np.array_equal(load_image(flawed, settings).pixels, expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (301, 70)])
def test_the_exact_crop_of_a_jpeg_is_that_of_pillows_image(size, mode):
    data = jpeg(size, mode, quality=90)
    settings = SimpleNamespace(image_size=64, channels=len(mode), crop="exact", encoding="raw")
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(centre_crop(image, 64)).reshape(64, 64, -1)
    assert np.array_equal(load_image(data, settings).pixels, expected)

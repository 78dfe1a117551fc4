from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from epg.data.sources import BadImageError, budget, decode
from epg.data.sources.budget import check_webp, fit_into_memory
from epg.data.sources.crop import centre_crop
from epg.data.sources.decode import decode_bytes, decoder_warnings, to_channels
from epg.data.sources.fetching import read_file

RAMP = np.arange(12 * 10, dtype=np.uint8).reshape(12, 10)
RGB = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=-1)


@pytest.fixture(autouse=True)
def _warnings():
    with decoder_warnings():
        yield


@pytest.fixture
def save(tmp_path: Path):
    def to_file(image: Image.Image, kind: str = "PNG", name: str = "x", **options) -> Path:
        path = tmp_path / name
        image.save(path, kind, **options)
        return path

    return to_file


def decoded(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    image, rules = decode_bytes(read_file(path))
    return np.asarray(image), rules


def test_rgb_and_grey_are_as_they_are(save):
    pixels, rules = decoded(save(Image.fromarray(RGB)))
    assert np.array_equal(pixels, RGB)
    assert rules == ()
    pixels, rules = decoded(save(Image.fromarray(RAMP), "WEBP", lossless=True))
    assert np.array_equal(pixels[..., 0], RAMP)  # WEBP knows no grey
    pixels, rules = decoded(save(Image.fromarray(RAMP)))
    assert np.array_equal(pixels, RAMP)
    assert rules == ()


def test_content_decides_not_the_extension(save):
    pixels, _ = decoded(save(Image.fromarray(RGB), "PNG", "n02105855_2933.JPEG"))
    assert np.array_equal(pixels, RGB)


def test_cmyk_jpeg_becomes_rgb(save):
    colour = Image.new("RGB", (16, 16), (200, 40, 90))
    pixels, rules = decoded(save(colour.convert("CMYK"), "JPEG", quality=95))
    assert rules == ("CMYK to RGB",)
    assert np.abs(pixels.astype(int) - (200, 40, 90)).max() <= 4


def test_16_bit_grey_drops_the_low_byte(save):
    values = RAMP.astype(np.uint16) * 257 + 3
    pixels, rules = decoded(save(Image.fromarray(values)))
    assert np.array_equal(pixels, values >> 8)
    assert rules == ("16 bits to 8",)


def test_16_bit_colour_drops_the_low_byte(tmp_path):
    values = (RGB.astype(np.uint16) << 8 | 0x7F).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 10, 12, 16, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    path = tmp_path / "x.png"
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    pixels, rules = decoded(path)
    assert np.array_equal(pixels, RGB)
    assert rules == ("16 bits to 8",)


def test_transparency_is_laid_over_white(save):
    layer = Image.new("RGBA", (10, 12), (0, 0, 0, 0))
    layer.paste((10, 20, 30, 255), (0, 0, 5, 12))
    pixels, rules = decoded(save(layer))
    assert rules == ("transparency over white",)
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 9].tolist() == [255, 255, 255]
    grey = Image.fromarray(np.stack([RAMP, np.full_like(RAMP, 0)], -1), "LA")
    pixels, rules = decoded(save(grey))
    assert pixels.shape == (12, 10)
    assert (pixels == 255).all()


def test_palettes_with_and_without_transparency(save):
    palette = Image.fromarray(RGB).quantize(16)
    pixels, rules = decoded(save(palette))
    assert rules == ("palette to RGB",)
    assert np.array_equal(pixels, np.asarray(palette.convert("RGB")))
    first = palette.getpixel((0, 0))
    pixels, rules = decoded(save(palette, transparency=first))
    assert rules == ("palette to RGB", "transparency over white")
    assert pixels[0, 0].tolist() == [255, 255, 255]


def test_colour_key_of_grey_and_rgb_png(save):
    pixels, rules = decoded(save(Image.fromarray(RAMP), transparency=0))
    assert rules == ("transparency over white",)
    assert pixels[0, 0] == 255
    assert pixels[0, 1] == 1
    key = tuple(int(v) for v in RGB[0, 0])
    pixels, rules = decoded(save(Image.fromarray(RGB), transparency=key))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == RGB[0, 1].tolist()


def test_black_and_white_becomes_grey(save):
    pixels, rules = decoded(save(Image.fromarray(RAMP > 60)))
    assert np.array_equal(pixels, np.where(RAMP > 60, 255, 0))
    assert rules == ("black and white to grey",)


def test_first_frame_of_an_animation(save):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for kind in ("WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        path = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        pixels, rules = decoded(path)
        assert np.array_equal(pixels, RGB)
        assert "animation: first frame" in rules


def test_orientation_is_counted_and_not_applied(save):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, rules = decoded(save(Image.fromarray(RGB), "JPEG", exif=exif, quality=95))
    assert pixels.shape == (12, 10, 3)
    assert rules == ("EXIF orientation not applied",)


def test_damaged_exif_does_not_matter(save):
    damaged = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(3)
    pixels, rules = decoded(save(Image.fromarray(RGB), "JPEG", exif=damaged))
    assert pixels.shape == (12, 10, 3)
    assert rules == ("EXIF damaged",)


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.tile(RGB, (8, 8, 1))).save(stream, "JPEG", **options)
    return stream.getvalue()


def png() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def gif() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "GIF")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am a text", "not a JPEG, PNG or WEBP image"),
        (b"<html><body>503</body></html>", "not a JPEG, PNG or WEBP image"),
        (gif(), "not a JPEG, PNG or WEBP image"),
        (jpeg()[:-400], "truncated or damaged image"),
        (jpeg()[:30], "truncated or damaged image"),
        (png()[: len(png()) // 2], "truncated or damaged image"),
        (png()[:60] + bytes(200) + png()[260:], "truncated or damaged image"),
        (bytes(1000), "not a JPEG, PNG or WEBP image"),
    ],
)
def test_unusable_files_are_bad_images(tmp_path, data, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(BadImageError) as caught:
        decode_bytes(read_file(path))
    assert caught.value.reason == reason


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a huge image."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((24_000, 24_000), "too many pixels"),
        ((60_000, 60_000), "too many pixels"),
        ((2**31 - 1, 2**31 - 1), "too many pixels"),
        ((1_000_000, 10), "too long and narrow"),
        ((1, 51), "too long and narrow"),
    ],
)
def test_absurd_sizes_are_refused_before_decoding(tmp_path, monkeypatch, size, reason):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(*size))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", _must_not_happen)
    with pytest.raises(BadImageError) as caught:
        decode_bytes(read_file(path))
    assert caught.value.reason == reason


def webp_of_size(kind: bytes, width: int, height: int) -> bytes:
    """The first bytes of a WEBP of one of its three kinds."""
    head = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(5),
        b"VP8 ": bytes(3) + b"\x9d\x01\x2a" + struct.pack("<2H", width, height),
    }[kind]
    body = b"WEBP" + kind + struct.pack("<I", len(head)) + head
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_webp_bomb_is_refused_before_pillow_makes_room(tmp_path, monkeypatch, kind):
    path = tmp_path / "bomb.webp"
    path.write_bytes(webp_of_size(kind, 8_000, 6_000))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", _must_not_happen)
        with pytest.raises(BadImageError, match=r"8000×6000 pixels take 1,098 MiB .* at most 512"):
            decode_bytes(read_file(path))
    check_webp(webp_of_size(kind, 4_000, 4_000))


def test_header_of_webp_is_read_as_pillow_does(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MOST_MEMORY", 0)
    for options in ({"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0"}):
        data = io.BytesIO()
        Image.new("RGB", (321, 123)).save(data, "WEBP", **options)
        with pytest.raises(BadImageError, match="321×123"):
            check_webp(data.getvalue())


@pytest.mark.parametrize(
    ("mode", "kind", "progressive", "most", "factor"),
    [
        ("RGB", "JPEG", False, 64 * 48 * 4, 1),
        ("RGB", "JPEG", False, 64 * 48 * 4 - 1, 2),
        ("RGB", "JPEG", False, 64 * 48 * 4 // 16, 4),
        ("L", "JPEG", False, 64 * 48 * 4, 1),
        ("RGB", "JPEG", True, 64 * 48 * 12, 1),
        ("RGB", "JPEG", True, 64 * 48 * 9, 2),
        ("RGB", "PNG", False, 64 * 48 * 4, 1),
        ("RGBA", "PNG", False, 64 * 48 * 8, 1),
        ("RGB", "JPEG", True, 64 * 48 * 8, 0),
        ("RGB", "PNG", False, 64 * 48 * 4 - 1, 0),
        ("RGBA", "PNG", False, 64 * 48 * 8 - 1, 0),
    ],
)
def test_large_jpeg_is_decoded_smaller_and_others_are_refused(
    tmp_path, monkeypatch, mode, kind, progressive, most, factor
):
    path = tmp_path / "photo"
    Image.new(mode, (64, 48)).save(path, kind, progressive=progressive)
    monkeypatch.setattr(budget, "MOST_MEMORY", most)
    if factor == 0:
        with pytest.raises(BadImageError, match=r"too many pixels.*64×48"):
            decode_bytes(read_file(path))
        return
    image, rules = decode_bytes(read_file(path))
    assert image.size == (64 // factor, 48 // factor)
    assert (f"JPEG too large: decoded at 1/{factor}" in rules) == (factor > 1)


def test_camera_of_61_megapixels_fits(tmp_path):
    path = tmp_path / "camera.png"
    path.write_bytes(png_of_size(9504, 6336))
    with Image.open(path) as image:
        assert fit_into_memory(image) == []


def test_strips_make_no_seam(save, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (23, 7, 4), dtype=np.uint8))
    path = save(image)
    white = Image.new("RGBA", image.size, "white")
    wanted = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    for pixels in (decode._STRIP_PIXELS, 30):
        monkeypatch.setattr(decode, "_STRIP_PIXELS", pixels)
        assert np.array_equal(decoded(path)[0], wanted)


def _must_not_happen(*_):
    raise AssertionError("pixels were decoded")


def test_links_to_nowhere_and_folders_are_bad_images(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(BadImageError, match="not a regular file"):
            decode_bytes(read_file(path))


def test_channels():
    grey, colour = Image.fromarray(RAMP), Image.fromarray(RGB)
    image, rules = to_channels(grey, 3)
    assert np.array_equal(np.asarray(image), np.stack([RAMP] * 3, -1))
    assert rules == ["grey to RGB"]
    assert to_channels(colour, 3) == (colour, [])
    assert to_channels(grey, 1) == (grey, [])
    image, rules = to_channels(grey.convert("RGB"), 1)
    assert np.array_equal(np.asarray(image), RAMP)
    assert rules == ["grey stored as RGB to one channel"]
    image, rules = to_channels(colour, 1)
    assert np.array_equal(np.asarray(image), np.asarray(colour.convert("L")))
    assert rules == ["colours to grey"]


@pytest.mark.parametrize("shape", [(8, 8), (31, 17), (200, 100), (9, 400), (3, 5)])
def test_crop_follows_adm(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    result = centre_crop(image, 8)
    assert result.size == (8, 8)
    # guided-diffusion's center_crop_arr, in its own words.
    expected = image
    while min(*expected.size) >= 2 * 8:
        half = (expected.width // 2, expected.height // 2)
        expected = expected.resize(half, resample=Image.Resampling.BOX)
    scale = 8 / min(*expected.size)
    full = (round(expected.width * scale), round(expected.height * scale))
    array = np.array(expected.resize(full, resample=Image.Resampling.BICUBIC))
    y, x = (array.shape[0] - 8) // 2, (array.shape[1] - 8) // 2
    assert np.array_equal(np.asarray(result), array[y : y + 8, x : x + 8])

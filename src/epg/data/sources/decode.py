"""From a file of unknown content to pixels, by fixed rules.

Rules, each counted in the data report: JPEG, PNG and WEBP by content; the first frame of an
animation; CMYK to RGB as Pillow does; 16 bits to 8 by dropping the low byte; transparency (alpha
or a palette's) laid over white; grey to RGB by three copies; EXIF orientation is not applied, since
published reference statistics were made without it. Anything else is skipped with a reason.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from epg.data.sources import base
from epg.data.sources.base import BadImageError
from epg.errors import UserError

_FORMATS = ("JPEG", "PNG", "WEBP")
_MAX_FILE_BYTES = 200 * 1024 * 1024
_MAX_PIXELS = 50_000_000
_MAX_ASPECT = 50
_ORIENTATION = 0x0112


class _ExifWarnings(threading.local):
    """How many of Pillow's warnings about EXIF this thread has seen."""

    count = 0


_exif_warnings = _ExifWarnings()


@contextlib.contextmanager
def decoder_warnings() -> Iterator[None]:
    """Make Pillow's warnings about bombs errors, count those about EXIF, silence its others.

    Python keeps filters per process: enter this in the main thread, around all decoding threads.
    """

    def count_or_show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if filename.endswith("TiffImagePlugin.py"):  # called in the thread that decodes
            _exif_warnings.count += 1
        else:
            show(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("always", module=r"PIL\.TiffImagePlugin")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        show, warnings.showwarning = warnings.showwarning, count_or_show
        yield


def load_image(path: Path, size: int, channels: int) -> base.Image:
    """Return a file's image, uint8 [size, size, channels]. Raises `BadImageError`.

    Raises:
        UserError: one channel is wanted and the image has colours.
    """
    image, rules = decode_file(path)
    image, more = to_channels(image, channels, str(path))
    pixels = np.asarray(centre_crop(image, size), np.uint8)
    return base.Image(pixels.reshape(size, size, channels), (*rules, *more))


def decode_file(path: Path) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an image in mode L or RGB and the rules that were applied. Raises `BadImageError`."""
    data = _read(path)
    _exif_warnings.count = 0
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size)
            rules = _properties(image, data)
            try:
                _check_sums(image, data)
                image.load()
            except Exception as error:
                raise BadImageError("truncated or damaged image", str(error)) from None
            converted, more = _to_rgb_or_grey(image)
            return converted, (*rules, *more)
    except BadImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError("too many pixels", str(error)) from None
    except Image.UnidentifiedImageError:
        raise BadImageError("not a JPEG, PNG or WEBP image") from None
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise BadImageError("truncated or damaged image", str(error)) from None


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise BadImageError("not a regular file")
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise BadImageError("file too large", f"{size} bytes, at most {_MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError("file cannot be read", error.strerror or str(error)) from None
    if not data:
        raise BadImageError("empty file")
    return data


def _check_size(width: int, height: int) -> None:
    """Refuse absurd sizes before any pixel is decoded. Raises `BadImageError`."""
    if width * height > _MAX_PIXELS:
        raise BadImageError("too many pixels", f"{width}×{height}, at most {_MAX_PIXELS}")
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise BadImageError("too long and narrow", f"{width}×{height}, at most 1:{_MAX_ASPECT}")


def _check_sums(image: Image.Image, data: bytes) -> None:
    """Raise unless a PNG's checksums hold: Pillow decodes altered pixels without a word."""
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
            again.verify()


def _properties(image: Image.Image, data: bytes) -> list[str]:
    """Return what is only to be counted: animation, 16-bit colour, EXIF."""
    found = []
    if getattr(image, "n_frames", 1) > 1:
        found.append("animation: first frame")
    if image.format == "PNG" and data[24:25] == b"\x10":  # bit depth in the header chunk
        found.append("16 bits to 8")
    try:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            found.append("EXIF orientation not applied")
    except Exception:  # damaged EXIF says nothing about the pixels
        _exif_warnings.count += 1
    if _exif_warnings.count:
        found.append("EXIF damaged")
    return found


def _to_rgb_or_grey(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return a loaded image in mode L or RGB. Raises `BadImageError` for modes without a rule."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image.copy(), []
    if mode == "1":
        return image.convert("L"), ["black and white to grey"]
    if mode.startswith("I;16") or mode == "I":
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)), []
    if mode in ("CMYK", "YCbCr"):
        return image.convert("RGB"), [f"{mode} to RGB"]
    rules = ["palette to RGB"] if mode in ("P", "PA") else []
    if mode == "P" and "transparency" not in image.info:
        return image.convert("RGB"), rules
    if mode not in ("LA", "La", "RGBA", "RGBa", "PA", "P", "L", "RGB"):
        raise BadImageError("unknown colour mode", mode)
    grey = mode in ("L", "LA", "La")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    merged = Image.alpha_composite(white, layer).convert("RGB")
    # An opaque alpha channel changes nothing, but is counted all the same: the rule was applied.
    return merged.getchannel(0) if grey else merged, [*rules, "transparency over white"]


def to_channels(image: Image.Image, channels: int, name: str) -> tuple[Image.Image, list[str]]:
    """Return an image (mode L or RGB) with the wanted channels.

    Raises:
        UserError: one channel is wanted and the image has colours; the whole set is mistaken.
    """
    if channels == 3:
        return (image, []) if image.mode == "RGB" else (image.convert("RGB"), ["grey to RGB"])
    if image.mode == "L":
        return image, []
    red, green, blue = image.split()
    if red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes():
        raise UserError(
            f"{name!r} has colours, but data.channels is 1: use --set data.channels=3, or make "
            "the images grey"
        )
    return red, ["grey stored as RGB to one channel"]


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return a `size`×`size` image: halve by BOX, BICUBIC to the shorter side, cut the centre.

    This is the crop of ADM, on which published figures rest.

    Source: docs/method.md, 1.5; Dhariwal and Nichol 2021.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))

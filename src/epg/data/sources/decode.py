"""From a file of unknown content to pixels, by fixed rules.

Rules, each counted in the data report: JPEG, PNG and WEBP by content; the first frame of an
animation; CMYK to RGB as Pillow does; 16 bits to 8 by dropping the low byte; transparency (alpha
or a palette's) laid over white; grey to RGB by three copies; colours to grey by luminance where one
channel is wanted; EXIF orientation is not applied, since published reference statistics were made
without it. Anything else is skipped with a reason.

What decoding takes is known from the header, before it begins, and stays bounded; a
JPEG that would take more is decoded at 1/2, 1/4 or 1/8 of its size.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from epg.data.jpeg import decode_jpeg
from epg.data.settings import CropSettings
from epg.data.sources import base, crop
from epg.data.sources.base import BadImageError
from epg.data.sources.budget import check_webp, fit_into_memory

T = TypeVar("T")
#: (opened image, its file, whether it is decoded at full size) -> pixels and rules applied.
Load = Callable[[Image.Image, bytes, bool], tuple[T, list[str]]]
#: Pixels uint8 [size, size, C], the whole image's shorter side, rules applied.
Cut = tuple[NDArray[np.uint8], int, tuple[str, ...]]

_FORMATS = ("JPEG", "PNG", "WEBP")
COLOURS_TO_GREY = "colours to grey"
_STRIP_PIXELS = 4_000_000
_PLAIN_PIXELS = 16_000_000  # an array beside Pillow's image: within what decoding may take
_MAX_ASPECT = 50
_ORIENTATION = 0x0112


class _ExifWarnings(threading.local):
    """How many of Pillow's warnings about EXIF this thread has seen."""

    count = 0


_exif_warnings = _ExifWarnings()


@contextlib.contextmanager
def decoder_warnings() -> Iterator[None]:
    """Count Pillow's warnings about EXIF, silence its others; our own bound replaces its limit.

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
        show, warnings.showwarning = warnings.showwarning, count_or_show
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def load_image(data: bytes | NDArray[np.uint8], settings: CropSettings) -> base.Image:
    """Return the crop of a file's bytes, or of pixels [H, W] or [H, W, 3].

    Returns:
        uint8 [size, size, channels] and the rules that were applied; with `passthrough` also the
        file's bytes.

    Raises:
        BadImageError: it cannot be used.
    """
    size, channels = settings.image_size, settings.channels
    cut = _fast_cut if settings.crop == "fast" else _exact_cut
    pixels, shorter_side, rules = cut(data, size)
    if pixels.shape[2] != channels:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image, more = to_channels(image, channels)
        pixels, rules = _with_channels(np.asarray(image, np.uint8)), (*rules, *more)
    found = base.Image(pixels, rules, shorter_side=shorter_side)
    if settings.encoding == "passthrough" and isinstance(data, bytes):
        return found._replace(content=data, extension=_extension(data))
    return found


def _exact_cut(data: bytes | NDArray[np.uint8], size: int) -> Cut:
    whole, rules = decode_bytes(data) if isinstance(data, bytes) else (Image.fromarray(data), ())
    cut = crop.centre_crop(whole, size)
    return _with_channels(np.asarray(cut, np.uint8)), min(whole.size), rules


def _fast_cut(data: bytes | NDArray[np.uint8], size: int) -> Cut:
    crop.require_torch()
    array, rules = _decoded(data, _array) if isinstance(data, bytes) else (data, ())
    array = _with_channels(array)
    return crop.fast_crop(array, size), min(array.shape[:2]), rules


def decode_bytes(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an image in mode L or RGB and the rules that were applied. Raises `BadImageError`."""
    return _decoded(data, _image)


def _decoded(data: bytes, load: Load[T]) -> tuple[T, tuple[str, ...]]:
    """Open an image and have it loaded, within bounds; any fault of it is a `BadImageError`."""
    if not data:
        raise BadImageError("empty file")
    _exif_warnings.count = 0
    try:
        check_webp(data)  # Pillow makes room for all its pixels when it opens one
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_shape(*image.size)
            rules = _properties(image, data)
            smaller = fit_into_memory(image)
            loaded, more = load(image, data, not smaller)
            return loaded, (*rules, *smaller, *more)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("too many pixels", str(error)) from None
    except Image.UnidentifiedImageError:
        raise BadImageError("not a JPEG, PNG or WEBP image") from None
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise BadImageError("truncated or damaged image", str(error)) from None


def _image(image: Image.Image, data: bytes, whole: bool) -> tuple[Image.Image, list[str]]:
    """Load an opened image, in mode L or RGB."""
    pixels = _plain_jpeg(image, data, whole)
    if pixels is not None:
        return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels), []
    try:
        _check_sums(image, data)
        image.load()
    except Exception as error:
        raise BadImageError("truncated or damaged image", str(error)) from None
    return _to_rgb_or_grey(image)


def _array(image: Image.Image, data: bytes, whole: bool) -> tuple[NDArray[np.uint8], list[str]]:
    """Load an opened image as uint8 [H, W, C]."""
    pixels = _plain_jpeg(image, data, whole)
    if pixels is not None:
        return pixels, []
    loaded, rules = _image(image, data, False)  # by Pillow: the other has been tried
    return _with_channels(np.array(loaded, np.uint8)), rules


def _plain_jpeg(image: Image.Image, data: bytes, whole: bool) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG to which no rule applies, uint8 [H, W, 1 or 3], or None."""
    width, height = image.size
    plain = image.format == "JPEG" and image.mode in ("L", "RGB")
    if not whole or not plain or width * height > _PLAIN_PIXELS:
        return None
    return decode_jpeg(data, (height, width, 1 if image.mode == "L" else 3))


def _with_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _extension(data: bytes) -> str:
    """Return the name's ending for what a decoded file turned out to be."""
    return "jpg" if data[:2] == b"\xff\xd8" else "png" if data[:4] == b"\x89PNG" else "webp"


def _check_shape(width: int, height: int) -> None:
    """Refuse what no crop does justice to. Raises `BadImageError`."""
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
        return image, []
    if mode == "1":
        return image.convert("L"), ["black and white to grey"]
    if mode.startswith("I;16") or mode == "I":
        return _by_strips(image, "L", _high_byte), []
    if mode in ("CMYK", "YCbCr"):
        return image.convert("RGB"), [f"{mode} to RGB"]
    rules = ["palette to RGB"] if mode in ("P", "PA") else []
    if mode == "P" and "transparency" not in image.info:
        return image.convert("RGB"), rules
    if mode not in ("LA", "La", "RGBA", "RGBa", "PA", "P", "L", "RGB"):
        raise BadImageError("unknown colour mode", mode)
    grey = mode in ("L", "LA", "La")
    # An opaque alpha channel changes nothing, but is counted all the same: the rule was applied.
    rules.append("transparency over white")
    return _by_strips(
        image, "L" if grey else "RGB", _grey_over_white if grey else _over_white
    ), rules


def _by_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert a few rows at a time: what a conversion makes on the way stays small."""
    made = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        made.paste(convert(strip), (0, top))
    return made


def _high_byte(strip: Image.Image) -> Image.Image:
    values = np.asarray(strip).astype(np.uint32)
    return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))


def _over_white(strip: Image.Image) -> Image.Image:
    white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB")


def _grey_over_white(strip: Image.Image) -> Image.Image:
    return _over_white(strip).getchannel(0)


def to_channels(image: Image.Image, channels: int) -> tuple[Image.Image, list[str]]:
    """Return an image (mode L or RGB) with the wanted channels, and the rule that was applied."""
    if channels == 3:
        return (image, []) if image.mode == "RGB" else (image.convert("RGB"), ["grey to RGB"])
    if image.mode == "L":
        return image, []
    red, green, blue = (band.tobytes() for band in image.split())
    same = red == green == blue
    return image.convert("L"), ["grey stored as RGB to one channel" if same else COLOURS_TO_GREY]

"""What decoding an image takes, known from its header before any pixel is decoded."""

from __future__ import annotations

import struct
from typing import NamedTuple

from PIL import Image

from epg.data.sources.base import BadImageError

#: Bytes that decoding one image may take.
MOST_MEMORY = 512 * 1024 * 1024
_WEBP_CODEC = 16  # bytes for a pixel: two canvases of an animation, and copies on the way


class _Cost(NamedTuple):
    """Bytes for a pixel: of what the codec keeps, of the decoded image, of what is made of it."""

    codec: int
    decoded: int
    made: int

    def bytes(self, width: int, height: int, reduced: int) -> int:
        """Return the most at one time; only what is decoded gets smaller by `reduced`."""
        pixels = width * height
        return pixels * self.codec + pixels * (self.decoded + self.made) // reduced**2


def _cost(image: Image.Image) -> _Cost:
    """Return what decoding an opened image takes; Pillow keeps three channels as four."""
    mode = image.mode
    grey = mode in ("1", "L", "LA", "La") or mode.startswith("I")
    decoded = 1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4
    plain = mode in ("L", "RGB") and "transparency" not in image.info
    codec = 0
    if image.format == "WEBP":
        codec = _WEBP_CODEC
    elif image.info.get("progressive"):
        codec = 2 if mode == "L" else 8  # all coefficients, of two bytes
    return _Cost(codec, decoded, 0 if plain else 1 if grey else 4)


def fit_into_memory(image: Image.Image) -> list[str]:
    """Have a JPEG that is too large decoded smaller. Raises `BadImageError` for other images."""
    width, height = image.size
    cost = _cost(image)
    factors = (1, 2, 4, 8) if image.format == "JPEG" else (1,)
    fitting = [f for f in factors if cost.bytes(width, height, f) <= MOST_MEMORY]
    if not fitting:
        raise _too_many_pixels(width, height, cost.bytes(width, height, factors[-1]))
    if fitting[0] == 1:
        return []
    image.draft(image.mode, (width // fitting[0], height // fitting[0]))
    return [f"JPEG too large: decoded at 1/{fitting[0]}"]


def _too_many_pixels(width: int, height: int, needed: int) -> BadImageError:
    return BadImageError(
        "too many pixels",
        f"{width}×{height} pixels take {needed // 2**20:,} MiB to decode, at most "
        f"{MOST_MEMORY // 2**20}: make it smaller, or a JPEG",
    )


def check_webp(data: bytes) -> None:
    """Refuse a WEBP that needs too much memory, by its header. Raises `BadImageError`."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    kind, head = data[12:16], data[20:30]
    if len(head) < 10:
        raise BadImageError("truncated or damaged image", "no WEBP header")
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[i : i + 3], "little") + 1 for i in (4, 7))
    elif kind == b"VP8L":
        (bits,) = struct.unpack("<I", head[1:5])
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<2H", head[6:10]))
    needed = width * height * (_WEBP_CODEC + 8)
    if needed > MOST_MEMORY:
        raise _too_many_pixels(width, height, needed)

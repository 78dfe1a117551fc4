"""Pictures for the page: sheets of samples, and data URIs that keep the page small."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_PICTURE_BYTES = 200_000  # of one embedded picture; larger ones are shrunk for the page only
MAX_STRIP_BYTES = 10_000  # likewise of one of the many small ones
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELATED_BELOW = 700  # a picture narrower than this is shown with hard pixel edges


@dataclass(frozen=True)
class Picture:
    """An embedded picture: data URI, size in pixels, and whether to keep its pixels hard."""

    uri: str
    width: int
    height: int
    pixelated: bool


def embed(png: bytes | None, most: int = MAX_PICTURE_BYTES) -> Picture | None:
    """Return a PNG as a data URI, as a JPEG if it has more bytes than `most`; None if no PNG."""
    if png is None or len(png) < 24 or not png.startswith(_SIGNATURE):
        return None
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    kind = "png"
    if len(png) > most:
        shrunk = _shrink(png, most)
        if shrunk is None:
            return None
        png, kind = shrunk, "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(png).decode()}"
    return Picture(uri, width, height, kind == "png" and width < _PIXELATED_BELOW)


def _shrink(png: bytes, most: int) -> bytes | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError):
        return None
    for side, quality in ((1400, 85), (1100, 80), (800, 75), (500, 60)):
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= most:
            break
    return buffer.getvalue()


def sheet_png(rows: Sequence[npt.NDArray[np.uint8]], *, side: int = 64) -> bytes:
    """Lay rows of images, each uint8 [N, H, W, C] (C 1 or 3), out with gaps between them, as PNG.

    The gaps, an eighth of an image, are transparent. Images larger than `side` pixels are shrunk
    to it, smaller ones keep their pixels.
    """
    import numpy as np
    from PIL import Image

    height, width = rows[0].shape[1:3]
    gap = max(1, width // 8)
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4)
    sheet = np.zeros(size, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            sheet[top : top + height, left : left + width, :3] = image  # grey: [H, W, 1] spreads
            sheet[top : top + height, left : left + width, 3] = 255
    picture = Image.fromarray(sheet)
    if height > side:
        scale = side / height
        shrunk = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(shrunk, Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def class_sheet(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    wanted: Sequence[int],
    *,
    per_class: int = 12,
) -> bytes:
    """Return a sheet with one row per wanted label that there is; empty bytes if there is none."""
    rows = [images[labels == label][:per_class] for label in wanted]
    rows = [row for row in rows if len(row)]
    return sheet_png(rows) if rows else b""


def class_strips(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    wanted: Sequence[int],
    *,
    per_class: int = 8,
) -> dict[int, bytes]:
    """Return for each wanted label the first images of it as one row; absent labels are left out.

    Args:
        images: uint8 [N, H, W, C].
        labels: int64 [N].
        wanted: labels to show.
        per_class: images in a row, fewer where there are fewer.
    """
    import numpy as np

    found = {}
    for label in wanted:
        places = np.flatnonzero(labels == label)[:per_class]
        if len(places):
            found[label] = sheet_png([images[places]])
    return found

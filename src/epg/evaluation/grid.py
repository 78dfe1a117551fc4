"""PNG grids of generated images: a row per class, and the way from noise to image.

Small images are scaled up by whole numbers without smoothing, so that 8×8 digits are legible.
The same images give the same bytes.

Shapes: `N` images, `T` points of a trajectory, `H W C` pixels.
"""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
_GAP = 2  # pixels between images
_PAPER = 0
_TILE = 48  # least height of an image, in pixels
MAX_ROWS = 20


def class_grid(images: Images, labels: NDArray[np.int64], *, per_class: int = 10) -> bytes:
    """PNG with one row per class, in order of labels, and up to `per_class` images in each.

    Args:
        images: uint8 [N, H, W, C].
        labels: class of each image, int64 [N].
        per_class: images in a row, the first ones of each class.
    """
    classes = sorted({int(label) for label in labels})
    if len(classes) > MAX_ROWS:  # evenly chosen: the first twenty of 1,000 are all fish and birds
        picked = np.linspace(0, len(classes) - 1, MAX_ROWS).round().astype(int)
        classes = [classes[i] for i in picked]
    rows = [images[labels == label][:per_class] for label in classes]
    return _png(_sheet(rows))


def rows_sheet(rows: list[Images]) -> bytes:
    """PNG with the given rows, each uint8 [N, H, W, C], one below the other."""
    return _png(_sheet(rows))


def trajectory_strip(trajectory: Images) -> bytes:
    """PNG with one row per image of uint8 [T, N, H, W, C], its estimates from left to right."""
    return _png(_sheet(list(trajectory.swapaxes(0, 1))))


def _sheet(rows: list[Images]) -> Images:
    """Lay rows of images [N, H, W, C] out on paper: uint8 [height, width, C]."""
    if not rows or not len(rows[0]):
        raise ValueError("no images to lay out")
    height, width, channels = rows[0].shape[1:]
    scale = max(1, -(-_TILE // height))
    gap = _GAP if scale * height < 128 else 2 * _GAP
    step_y, step_x = height * scale + gap, width * scale + gap
    columns = max(len(row) for row in rows)
    shape = (len(rows) * step_y + gap, columns * step_x + gap, channels)
    sheet = np.full(shape, _PAPER, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * step_y + gap, x * step_x + gap
            enlarged = image.repeat(scale, 0).repeat(scale, 1)
            sheet[top : top + height * scale, left : left + width * scale] = enlarged
    return sheet


def _png(sheet: Images) -> bytes:
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def grid_html(png: bytes, title: str) -> str:
    """Return a self-contained HTML page that shows the PNG; it needs nothing from elsewhere."""
    data = base64.b64encode(png).decode("ascii")
    heading = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{heading}</title><style>body{{margin:1rem;font:15px/1.5 system-ui,sans-serif;"
        "color:#1c2024;background:#fff}img{max-width:100%;image-rendering:pixelated}</style>"
        f'</head><body><h1 style="font-size:1.1rem">{heading}</h1>'
        f'<img alt="{heading}" src="data:image/png;base64,{data}"></body></html>\n'
    )

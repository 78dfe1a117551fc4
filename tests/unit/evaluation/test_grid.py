from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from epg.evaluation.grid import MAX_ROWS, class_grid, grid_html, trajectory_strip


def opened(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)))


def test_one_row_per_class_enlarged_without_smoothing():
    labels = np.array([1, 0, 1, 0, 0])
    images = np.zeros((5, 8, 8, 1), np.uint8)
    images[:, 3, 4] = np.array([10, 20, 30, 40, 50])[:, None]
    sheet = opened(class_grid(images, labels, per_class=2))
    assert sheet.shape == (2 * 50 + 2, 2 * 50 + 2)
    assert set(np.unique(sheet)) == {0, 10, 20, 30, 40}  # the fifth image has no place
    # Row 0 is class 0: its first image is number 1, whose bright pixel is a 6×6 square.
    assert (sheet == 20).sum() == 36
    assert sheet[2 + 3 * 6, 2 + 4 * 6] == 20
    assert sheet[52 + 3 * 6, 52 + 4 * 6] == 30


def test_colour_and_size_of_large_images():
    images = np.zeros((3, 64, 64, 3), np.uint8)
    images[..., 1] = 200
    sheet = opened(class_grid(images, np.arange(3)))
    assert sheet.shape == (3 * 66 + 2, 66 + 2, 3)
    assert tuple(sheet[10, 10]) == (0, 200, 0)


def test_many_classes_are_thinned_out_evenly():
    images = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    sheet = opened(class_grid(images, np.arange(100)))
    shown = sorted(set(np.unique(sheet)) - {255})
    assert len(shown) == MAX_ROWS
    assert shown[0] == 0
    assert shown[-1] == 99


def test_strip_shows_the_way_of_an_image_in_a_row():
    points = np.arange(5, dtype=np.uint8)[:, None, None, None, None] * 8
    trajectory = np.concatenate([points, points + 1], axis=1).repeat(8, 2).repeat(8, 3)
    sheet = opened(trajectory_strip(trajectory))
    assert sheet.shape == (2 * 50 + 2, 5 * 50 + 2)
    for row in range(2):
        shown = [int(sheet[20 + 50 * row, 20 + 50 * i]) for i in range(5)]
        assert shown == [row + 8 * i for i in range(5)]


def test_the_same_images_give_the_same_bytes():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(20) % 10
    assert class_grid(images, labels) == class_grid(images.copy(), labels)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        class_grid(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int64))


def test_page_is_self_contained_and_escaped():
    png = class_grid(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int64))
    page = grid_html(png, "<digits> & more")
    assert "&lt;digits&gt; &amp; more" in page
    assert "<digits>" not in page
    assert not re.search(r"https?://|<script", page)
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert data
    assert base64.b64decode(data[1]) == png

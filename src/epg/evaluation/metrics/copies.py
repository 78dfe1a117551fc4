"""Are samples copies? How far they lie from the training images, in pixels.

Shapes: `N` images, `H W C` pixels, `P` = H·W·C after averaging.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.data.reader import ShardReader
from epg.evaluation.metrics.neighbours import nearest, squared_distances
from epg.evaluation.precision import full_precision
from epg.evaluation.reading import once

#: Larger images are averaged down to at most this before they are compared pixel by pixel.
MAX_SIDE = 64
#: Images whose nearest training image is looked for, and training images that are looked through.
MAX_QUERIES = 1000
MAX_TRAINING_IMAGES = 100_000


def pixels(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Return images uint8 [N, H, W, C] as float32 rows [N, P] around 0, at most 64 pixels wide."""
    x = torch.as_tensor(images).to(device, torch.float32)
    x = (x - 128.0).permute(0, 3, 1, 2)  # small whole numbers: float32 sums of squares are exact
    side = max(x.shape[-2:])
    if side > MAX_SIDE:
        scale = MAX_SIDE / side
        height, width = (max(1, round(edge * scale)) for edge in x.shape[-2:])
        x = torch.nn.functional.adaptive_avg_pool2d(x, (height, width))
    return x.flatten(1)


class Nearest(NamedTuple):
    """What of the training set lies nearest to some images."""

    distances: NDArray[np.float64]  # of every image, in pixel values
    images: NDArray[np.uint8]  # training images nearest to the first ones, [shown, H, W, C]


@full_precision()
def nearest_in_training(
    queries: NDArray[np.uint8],
    train: ShardReader,
    device: torch.device | str = "cpu",
    *,
    shown: int = 0,
) -> Nearest:
    """Look for the nearest training image of every query, in one pass over them.

    Args:
        queries: uint8 [N, H, W, C].
        train: images of the same shape; of large splits the same `MAX_TRAINING_IMAGES` are looked
            through every time.
        device: where distances are computed.
        shown: for how many queries, the first, the image itself is kept.

    Returns:
        Euclidean distances float64 [N] in pixel values (0 to 255), and the kept images.
    """
    rows = pixels(queries, device)
    found = rows.new_full((len(rows), 1), float("inf"))
    kept = np.zeros_like(queries[:shown])
    for images, _ in once(train, MAX_TRAINING_IMAGES):
        others = pixels(images, device)
        before = found[: len(kept)].clone()
        found = torch.minimum(found, nearest(rows, [others], 1))
        closer = torch.nonzero(found[: len(kept), 0] < before[:, 0])[:, 0]
        if len(closer):
            places = squared_distances(rows[closer], others).argmin(1)
            kept[closer.cpu().numpy()] = images[places.cpu().numpy()]
    return Nearest(found[:, 0].double().sqrt().cpu().numpy(), kept)


def nearest_neighbour_ratio(samples: NDArray[Any], held_out: NDArray[Any]) -> float:
    """Median distance of samples to the training set over that of real images never trained on.

    About 1 for new images from the same distribution, near 0 for copies. Not a number when the
    held-out images are themselves copies of training images.
    """
    reference = float(np.median(held_out)) if len(held_out) else 0.0
    if reference == 0.0 or not len(samples):
        return float("nan")
    return float(np.median(samples)) / reference

"""Nearest neighbours: improved precision and recall, and the question whether samples are copies.

Every distance matrix is made block by block, so memory stays at `block` × N numbers.

Shapes: `N M` rows, `D` feature width, `H W C` pixels, `P` = H·W·C after averaging.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.data.reader import ShardReader
from epg.evaluation.precision import full_precision
from epg.evaluation.reading import once

BLOCK_ROWS = 4096
#: Larger images are averaged down to at most this before they are compared pixel by pixel.
MAX_SIDE = 64
#: Images whose nearest training image is looked for, and training images that are looked through.
MAX_QUERIES = 1000
MAX_TRAINING_IMAGES = 100_000


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M] of x [N, D] and y [M, D], never negative."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_min_(0)


def nearest(rows: Tensor, others: Iterable[Tensor], k: int, block: int = BLOCK_ROWS) -> Tensor:
    """Squared distances of every row [N, D] to the k nearest of the others: [N, k], ascending.

    Args:
        rows: from which distances are taken.
        others: parts [M, D] of the set among which is looked; the whole may not fit memory.
        k: how many; where there are fewer, the rest is infinite.
        block: rows that are compared at a time, of either set.
    """
    found = rows.new_full((len(rows), k), float("inf"))
    for part in others:
        for columns in part.split(block):
            for here, known in zip(rows.split(block), found.split(block), strict=True):
                candidates = torch.cat([known, squared_distances(here, columns)], 1)
                known.copy_(candidates.topk(k, dim=1, largest=False).values)
    return found


def neighbour_radii(features: Tensor, k: int, block: int = BLOCK_ROWS) -> Tensor:
    """Squared distance of every row [N, D] to its k-th nearest other row: [N]."""
    if not 0 < k < len(features):
        raise ValueError(f"k is {k}: it must lie between 1 and {len(features) - 1}")
    return nearest(features, [features], k + 1, block)[:, k]  # the nearest is the row itself


@full_precision()
def precision_recall(
    reference: Tensor, samples: Tensor, k: int = 3, block: int = BLOCK_ROWS
) -> tuple[float, float]:
    """Fraction of samples within the reference's manifold, and the other way round.

    A row lies within a manifold when it is within the k-th neighbour's distance of any row of
    the set that spans it. Both sets are [N, D] and [M, D] on one device and in one type.

    Source: docs/method.md, 8.3; Kynkäänniemi et al. 2019, eq. 1 and 2.
    """
    centre = reference.mean(0)  # distances stay, and float32 loses less
    reference, samples = reference - centre, samples - centre
    reference_radii = neighbour_radii(reference, k, block)
    sample_radii = neighbour_radii(samples, k, block)
    recalled = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    precise = 0
    for rows, radii in zip(samples.split(block), sample_radii.split(block), strict=True):
        distances = squared_distances(rows, reference)
        precise += int((distances <= reference_radii).any(1).sum())
        recalled |= (distances <= radii[:, None]).any(0)
    return precise / len(samples), float(recalled.float().mean())


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


@full_precision()
def distances_to_training(
    queries: NDArray[np.uint8], train: ShardReader, device: torch.device | str = "cpu"
) -> NDArray[np.float64]:
    """Distance in pixel values (0 to 255) of every query to its nearest training image.

    Args:
        queries: uint8 [N, H, W, C].
        train: images of the same shape; of large splits the same `MAX_TRAINING_IMAGES` are looked
            through every time.
        device: where distances are computed.

    Returns:
        float64 [N], Euclidean.
    """
    others = (pixels(images, device) for images, _ in once(train, MAX_TRAINING_IMAGES))
    found = nearest(pixels(queries, device), others, 1)[:, 0]
    return found.double().sqrt().cpu().numpy()


def nearest_neighbour_ratio(samples: NDArray[Any], held_out: NDArray[Any]) -> float:
    """Median distance of samples to the training set over that of real images never trained on.

    About 1 for new images from the same distribution, near 0 for copies. Not a number when the
    held-out images are themselves copies of training images.
    """
    reference = float(np.median(held_out)) if len(held_out) else 0.0
    if reference == 0.0 or not len(samples):
        return float("nan")
    return float(np.median(samples)) / reference

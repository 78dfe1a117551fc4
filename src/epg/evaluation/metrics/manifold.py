"""Precision and recall, density and coverage: does each set lie where the other one does?

All four come from one pass over blocks of distances, so memory stays at `block`² numbers and the
radii, however many images there are.

Shapes: `N` reference rows, `M` sample rows, `D` feature width, `k` neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from epg.evaluation.metrics.neighbours import BLOCK_ROWS, nearest_of_set, squared_distances
from epg.evaluation.precision import full_precision

#: Neighbours of density and coverage, as their authors chose.
DENSITY_NEIGHBOURS = 5


class Manifold(NamedTuple):
    """How two sets lie to each other; all but density are shares."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_radii(features: Tensor, ks: tuple[int, ...], block: int = BLOCK_ROWS) -> list[Tensor]:
    """Squared distances of every row [N, D] to its k-th nearest other row: [N] for each k."""
    for k in ks:
        if not 0 < k < len(features):
            raise ValueError(f"k is {k}: it must lie between 1 and {len(features) - 1}")
    found = nearest_of_set(features, max(ks) + 1, block)
    return [found[:, k].contiguous() for k in ks]


@full_precision()
def compare_manifolds(
    reference: Tensor, samples: Tensor, k: int = 3, block: int = BLOCK_ROWS
) -> Manifold:
    """Return the four figures of reference [N, D] and samples [M, D], of one device and type.

    Precision and recall: the fraction of samples within the reference's manifold, and the other
    way round; a row lies within a manifold when it is within the k-th neighbour's distance of any
    row of the set that spans it. Density counts in how many of the reference's neighbourhoods a
    sample lies, over what is expected; coverage is the share of the reference's neighbourhoods
    that hold a sample. Both take 5 neighbours, or as many as there are.

    Source: docs/method.md, 8.3; Kynkäänniemi et al. 2019, eq. 1 and 2; Naeem et al. 2020, eq. 3
    and 4.
    """
    centre = reference.mean(0)  # distances stay, and float32 loses less
    reference, samples = reference - centre, samples - centre
    wide = min(DENSITY_NEIGHBOURS, len(reference) - 1)
    reference_radii, wide_radii = neighbour_radii(reference, (k, wide), block)
    (sample_radii,) = neighbour_radii(samples, (k,), block)
    device = reference.device
    recalled = torch.zeros(len(reference), dtype=torch.bool, device=device)
    covered = torch.zeros(len(reference), dtype=torch.bool, device=device)
    precise, hits = 0, 0
    for rows, radii in zip(samples.split(block), sample_radii.split(block), strict=True):
        inside = torch.zeros(len(rows), dtype=torch.bool, device=device)
        for start in range(0, len(reference), block):
            part = slice(start, start + block)
            distances = squared_distances(rows, reference[part])
            inside |= (distances <= reference_radii[part]).any(1)
            recalled[part] |= (distances <= radii[:, None]).any(0)
            near = distances <= wide_radii[part]
            hits += int(near.sum())
            covered[part] |= near.any(0)
        precise += int(inside.sum())
    return Manifold(
        precise / len(samples),
        float(recalled.double().mean()),
        hits / (wide * len(samples)),
        float(covered.double().mean()),
    )

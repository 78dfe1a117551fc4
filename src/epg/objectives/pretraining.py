"""Stage 1: two views agree, and neighbours on one sampling trajectory agree.

Shape letters: N batch, C channels, H W pixels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from epg.diffusion.denoisers import add_noise
from epg.diffusion.preconditioning import c_in, c_noise, per_image
from epg.objectives.collapse import feature_deviation
from epg.objectives.contrastive import Gather, info_nce

#: (scaled images [N, C, H, W], c_noise [N]) -> features [N, D]
Features = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PretrainingInputs:
    """What one step looks at; `noise` is shared by all four noisy images of a sample."""

    view1: Tensor  # [N, C, H, W]
    view2: Tensor
    clean: Tensor
    noise: Tensor
    sigma_floor: float  # shifted sigma_min
    sigma_noisier: float  # shifted, the query's level
    sigma_cleaner: float  # shifted, the key's level


class PretrainingTerms(NamedTuple):
    """What one step gives; scalars. The first two are minimised, unweighted here."""

    contrastive: Tensor  # both directions, summed
    consistency: Tensor
    feature_deviation: Tensor  # of the noisier images' features, no part of the loss; 0: collapse


def consistency_temperature(
    sigma: float, step: int, total_steps: int, tau_low: float, tau_start: float, bounds: tuple
) -> float:
    """Return tau(sigma): `tau_low` at sigma_min, annealed from `tau_start` at sigma_max.

    `bounds` is (sigma_min, sigma_max), unshifted like `sigma`, the query's level. Over the first
    two thirds of training the upper end falls from `tau_start` to `tau_low`.

    Source: docs/method.md, 2.3.
    """
    progress = min(step / total_steps, 2 / 3)
    tau_high = tau_start - (tau_start - tau_low) * math.sin(0.75 * math.pi * progress)
    low, high = bounds
    return (tau_low * (high - sigma) + tau_high * (sigma - low)) / (high - low)


def pretraining_losses(
    inputs: PretrainingInputs,
    *,
    online: Features,
    project: Callable[[Tensor], Tensor],
    target: Features | None,
    sigma_data: float,
    temperature_contrastive: float,
    temperature_consistency: float,
    neighbour: Features | None = None,
    gather: Gather | None = None,
    rank: int = 0,
) -> PretrainingTerms:
    """Return the terms of the loss, and the sign by which a collapse is seen.

    Args:
        inputs: views, clean image, noise and levels.
        online: features z of the trained encoder, before the projector.
        project: the trained projector, called once per view so that BatchNorm sees one view.
        target: projected features of the EMA target, the views' keys; None: the online network's
            own, without gradient.
        sigma_data: deviation of the data.
        temperature_contrastive: tau of the views' terms.
        temperature_consistency: tau of the trajectory's term.
        neighbour: features of the cleaner neighbour, before a projector; None: the online
            network's own, without gradient.
        gather: see `info_nce`.
        rank: see `info_nce`.

    Source: docs/method.md, 2.2.
    """
    batch = inputs.clean.shape[0]

    def noisy(images: Tensor, level: float) -> tuple[Tensor, Tensor]:
        sigma = torch.full((batch,), level, dtype=torch.float64, device=images.device)
        x = per_image(c_in(sigma, sigma_data)) * add_noise(images, inputs.noise, sigma)
        return x, c_noise(sigma)

    parts = [
        noisy(inputs.view1, inputs.sigma_floor),
        noisy(inputs.view2, inputs.sigma_floor),
        noisy(inputs.clean, inputs.sigma_noisier),
    ]
    # One pass over three batches: the encoder has no statistics over the batch.
    x, level = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    z1, z2, z_noisier = online(x, level).split(batch)
    h1, h2 = project(z1), project(z2)
    with torch.no_grad():
        key1, key2 = (target(*parts[0]), target(*parts[1])) if target else (h1, h2)
        z_cleaner = (neighbour or online)(*noisy(inputs.clean, inputs.sigma_cleaner))
    contrastive = info_nce(h1, key2, temperature_contrastive, gather, rank) + info_nce(
        h2, key1, temperature_contrastive, gather, rank
    )
    consistency = info_nce(z_noisier, z_cleaner, temperature_consistency, gather, rank)
    every = z_noisier.detach().float()
    deviation = feature_deviation(gather(every) if gather else every)
    return PretrainingTerms(contrastive, consistency, deviation)

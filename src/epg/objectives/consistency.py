"""Stage 2 as a one-step consistency model.

Shape letters: N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epg.diffusion.denoisers import add_noise


def pair_level(t: Tensor, stage: int, base: float, sigma_min: float) -> Tensor:
    """Return r(t) < t, the cleaner level of a pair; unshifted, [N] -> [N].

    The ratio r/t tends to 1 as the stage grows: easy consistency first, fine consistency last.

    Source: docs/method.md, 5.2; Geng et al. 2024.
    """
    ratio = 1.0 - base ** (-stage) * (1.0 + 8.0 * torch.sigmoid(-t))
    return (t * ratio).clamp_min(sigma_min)


def pair_weight(t: Tensor, r: Tensor, sigma_shift: float) -> Tensor:
    """Return 1 / (s t - s r), and 0 where the clamp made both equal; [N].

    Source: docs/method.md, 5.2.
    """
    gap = sigma_shift * (t - r)
    return torch.where(gap > 0, 1.0 / gap.clamp_min(1e-30), torch.zeros_like(gap))


def pseudo_huber(difference: Tensor, c: float) -> Tensor:
    """Return |d|^2 / sqrt(sg|d|^2 + c^2) per image, [N]; the norm runs over all pixels.

    Source: docs/method.md, 5.3.
    """
    squared = difference.float().square().flatten(1).sum(1)
    return squared / (squared.detach() + c**2).sqrt()


def consistency_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    denoise_target: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    noise: Tensor,
    t: Tensor,
    r: Tensor,
    weight: Tensor,
    huber_c: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a pair on one trajectory, and D(x_t) for the auxiliary term.

    Args:
        denoise: D at the noisier level, with gradient.
        denoise_target: D with the same weights and the same dropout mask; no gradient is taken.
        images: clean images [N, C, H, W].
        noise: standard normal, shared by both levels.
        t: noisier levels, shifted, [N] float64.
        r: cleaner levels, shifted, [N] float64.
        weight: [N].
        huber_c: c of the pseudo-Huber loss.

    Source: docs/method.md, 5.3.
    """
    with torch.no_grad():
        target = denoise_target(add_noise(images, noise, r), r)
    output = denoise(add_noise(images, noise, t), t)
    loss = (weight.to(torch.float32) * pseudo_huber(output - target, huber_c)).mean()
    return loss, output

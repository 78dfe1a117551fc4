"""Samplers. They count the network's evaluations themselves and return the count.

Shape letters: N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from epg.diffusion.schedule import sigma_grid

#: D(x [N, C, H, W], shifted sigma [N] float64, labels [N]) -> [N, C, H, W]
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
#: called with (denoised estimate, evaluations so far) after each step
Watcher = Callable[[Tensor, int], None]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance inside an interval of unshifted noise levels.

    Source: Kynkäänniemi et al. 2024; EPG, section 6 of docs/method.md.
    """

    scale: float
    interval: tuple[float, float]  # (sigma_low, sigma_high]: guided where low < sigma <= high
    null_class: int

    def applies(self, sigma: float) -> bool:
        """Tell, in float64 and unshifted, whether a level is guided."""
        return self.scale != 1.0 and self.interval[0] < sigma <= self.interval[1]


class CountingDenoiser:
    """Evaluates a denoiser at one level for a whole batch, with or without guidance."""

    def __init__(
        self,
        denoise: Denoiser,
        labels: Tensor,
        guidance: Guidance | None,
        sigma_shift: float,
        clamp: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Keep what does not change between levels; `clamp` is (low [C], high [C])."""
        self._denoise = denoise
        self._labels = labels
        self._guidance = guidance
        self._shift = sigma_shift
        self._clamp = clamp
        self.nfe = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the denoised estimate [N, C, H, W] of `x` at the unshifted level `sigma`."""
        if self._guidance is not None and self._guidance.applies(sigma):
            denoised = self._guided(x, sigma)
        else:
            denoised = self._denoise(x, self._level(x, sigma), self._labels)
            self.nfe += 1
        if self._clamp is None:
            return denoised
        low, high = (bound[None, :, None, None] for bound in self._clamp)
        return torch.maximum(torch.minimum(denoised, high), low)

    def _guided(self, x: Tensor, sigma: float) -> Tensor:
        """D_u + w (D_c - D_u), both halves in one pass of twice the batch."""
        guidance = self._guidance
        assert guidance is not None
        null = torch.full_like(self._labels, guidance.null_class)
        both = torch.cat([x, x])
        labels = torch.cat([self._labels, null])
        conditional, unconditional = self._denoise(both, self._level(both, sigma), labels).chunk(2)
        self.nfe += 2
        return unconditional + guidance.scale * (conditional - unconditional)

    def _level(self, x: Tensor, sigma: float) -> Tensor:
        level = self._shift * sigma
        return torch.full((x.shape[0],), level, dtype=torch.float64, device=x.device)


def heun(
    denoiser: CountingDenoiser,
    noise: Tensor,
    *,
    steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    sigma_shift: float,
    final_euler_step: bool,
    watch: Watcher | None = None,
) -> tuple[Tensor, int]:
    """Integrate the probability flow from `sigma_max` with Heun's method.

    Args:
        denoiser: evaluates D and counts.
        noise: standard normal [N, C, H, W], float32.
        steps: number of noise levels; `steps - 1` intervals.
        sigma_min: lowest level, unshifted.
        sigma_max: highest level, unshifted.
        rho: curvature of the grid.
        sigma_shift: factor from unshifted to actual levels.
        final_euler_step: go on from `sigma_min` to 0 by one Euler step (NFE + 1).
        watch: called with each step's first denoised estimate.

    Returns:
        The images [N, C, H, W] and the number of evaluations per image.

    Source: Karras et al. 2022, algorithm 2 (deterministic); EPG, section 6 of docs/method.md.
    """
    sigmas = [float(s) for s in sigma_grid(steps, sigma_min, sigma_max, rho)]
    x = sigma_shift * sigma_max * noise
    for sigma, following in pairwise(sigmas):
        denoised = denoiser(x, sigma)
        if watch:
            watch(denoised, denoiser.nfe)
        slope = (x - denoised) / (sigma_shift * sigma)
        width = sigma_shift * (following - sigma)
        predicted = x + width * slope
        corrected = (predicted - denoiser(predicted, following)) / (sigma_shift * following)
        x = x + width * 0.5 * (slope + corrected)
    if final_euler_step:
        x = denoiser(x, sigmas[-1])  # an Euler step from sigma_min to 0 ends at the estimate
        if watch:
            watch(x, denoiser.nfe)
    return x, denoiser.nfe


def consistency(
    denoiser: CountingDenoiser,
    noise: Tensor,
    *,
    sigma_max: float,
    sigma_shift: float,
    intermediate: tuple[float, ...] = (),
    renoise: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, int]:
    """Jump from pure noise to an image in one evaluation, or in a few.

    Args:
        denoiser: evaluates D and counts.
        noise: standard normal [N, C, H, W].
        sigma_max: unshifted level of the noise.
        sigma_shift: factor from unshifted to actual levels.
        intermediate: unshifted levels to noise again to, for more steps.
        renoise: gives fresh standard normal noise for the i-th intermediate level.

    Source: EPG, section 5 of docs/method.md (sampling).
    """
    images = denoiser(sigma_shift * sigma_max * noise, sigma_max)
    for index, sigma in enumerate(intermediate):
        if renoise is None:
            raise ValueError("more than one step needs `renoise`")
        images = denoiser(images + sigma_shift * sigma * renoise(index), sigma)
    return images, denoiser.nfe

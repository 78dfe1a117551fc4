"""Samplers. They count the network's evaluations themselves and return the count.

Shape letters: N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from epg.config.sampling import SamplingConfig
from epg.diffusion.plan import Visit, sampling_steps

#: D(x [N, C, H, W], shifted sigma [N] float64, labels [N]) -> [N, C, H, W]
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
#: called with (denoised estimate, evaluations so far) after each step
Watcher = Callable[[Tensor, int], None]


class CountingDenoiser:
    """Evaluates a denoiser at one level for a whole batch, with or without guidance.

    Source: docs/method.md, 6.2; Ho and Salimans 2022.
    """

    def __init__(
        self,
        denoise: Denoiser,
        labels: Tensor,
        null_class: int,
        sampling: SamplingConfig,
        clamp: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Keep what does not change between levels; `clamp` is (low [C], high [C])."""
        self._denoise = denoise
        self._labels = labels
        self._null_class = null_class
        self._sampling = sampling
        self._clamp = clamp
        self.nfe = 0

    def __call__(self, x: Tensor, visit: Visit) -> Tensor:
        """Return the denoised estimate [N, C, H, W] of `x` at the visit's level."""
        if visit.guided:
            denoised = self._guided(x, visit.sigma)
        else:
            denoised = self._denoise(x, self._level(x, visit.sigma), self._labels)
            self.nfe += 1
        if self._clamp is None:
            return denoised
        low, high = (bound[None, :, None, None] for bound in self._clamp)
        return torch.maximum(torch.minimum(denoised, high), low)

    def _guided(self, x: Tensor, sigma: float) -> Tensor:
        """D_u + w (D_c - D_u), both halves in one pass of twice the batch."""
        null = torch.full_like(self._labels, self._null_class)
        both = torch.cat([x, x])
        labels = torch.cat([self._labels, null])
        conditional, unconditional = self._denoise(both, self._level(both, sigma), labels).chunk(2)
        self.nfe += 2
        return unconditional + self._sampling.guidance_scale * (conditional - unconditional)

    def _level(self, x: Tensor, sigma: float) -> Tensor:
        level = self._sampling.sigma_shift * sigma
        return torch.full((x.shape[0],), level, dtype=torch.float64, device=x.device)


def heun(
    denoiser: CountingDenoiser,
    noise: Tensor,
    sampling: SamplingConfig,
    watch: Watcher | None = None,
) -> tuple[Tensor, int]:
    """Integrate the probability flow from `sigma_max` with Heun's method, or with Euler's.

    Args:
        denoiser: evaluates D and counts.
        noise: standard normal [N, C, H, W], float32.
        sampling: levels, solver, guidance, and whether a last Euler step goes on to 0 (NFE + 1).
        watch: called with each step's first denoised estimate.

    Returns:
        The images [N, C, H, W] and the number of evaluations per image.

    Source: docs/method.md, 6.1; Karras et al. 2022, algorithm 2.
    """
    shift = sampling.sigma_shift
    x = shift * sampling.sigma_max * noise
    for step in sampling_steps(sampling):
        sigma = step.start.sigma
        denoised = denoiser(x, step.start)
        if watch:
            watch(denoised, denoiser.nfe)
        if step.target == 0.0:  # an Euler step to 0 ends at the estimate
            x = denoised
            continue
        slope = (x - denoised) / (shift * sigma)
        width = shift * (step.target - sigma)
        predicted = x + width * slope
        if step.end is None:
            x = predicted
            continue
        corrected = (predicted - denoiser(predicted, step.end)) / (shift * step.end.sigma)
        x = x + width * 0.5 * (slope + corrected)
    return x, denoiser.nfe


def consistency(
    denoiser: CountingDenoiser,
    noise: Callable[[int], Tensor],
    sampling: SamplingConfig,
) -> tuple[Tensor, int]:
    """Jump from pure noise to an image in one evaluation, or in a few.

    Args:
        denoiser: evaluates D and counts.
        noise: gives standard normal noise [N, C, H, W] for the i-th step, fresh for each.
        sampling: the level of the first noise, and those to noise again to for more steps.

    Returns:
        The images [N, C, H, W] and the number of evaluations per image.

    Source: docs/method.md, 6.4; Song et al. 2023, algorithm 1.
    """
    images: Tensor | None = None
    for index, step in enumerate(sampling_steps(sampling)):
        noised = sampling.sigma_shift * step.start.sigma * noise(index)
        images = denoiser(noised if images is None else images + noised, step.start)
    assert images is not None
    return images, denoiser.nfe

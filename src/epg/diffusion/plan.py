"""A sampler's plan without tensors: which levels it visits, and what that costs.

The samplers iterate over exactly these steps, so the number of evaluations that `count-gflops`
tells (where there is no PyTorch) and the one that a sampler counts have one origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from epg.config.sampling import SamplingConfig


@dataclass(frozen=True)
class Visit:
    """One evaluation of the denoiser at an unshifted level, for a whole batch."""

    sigma: float
    guided: bool

    @property
    def nfe(self) -> int:
        """Evaluations of the network: a guided visit needs one without a class, too."""
        return 2 if self.guided else 1


@dataclass(frozen=True)
class Step:
    """From one level to a lower one by the slope at `start`.

    With `end`, a visit of the lower level, the slope is corrected by a second one there. A step to
    0 ends at the estimate made at `start`.
    """

    start: Visit
    end: Visit | None = None
    target: float = 0.0  # the lower level, unshifted


def sigma_levels(count: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return `count` unshifted levels from `sigma_max` down to `sigma_min`, in double precision.

    sigma_i = (sigma_max^(1/rho) + i / (count - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    Source: docs/method.md, 1.2; Karras et al. 2022, eq. 5.
    """
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = ((high + i / (count - 1) * (low - high)) ** rho for i in range(1, count - 1))
    return [sigma_max, *inner, sigma_min]  # exact ends, whatever the powers round to


def is_guided(sigma: float, sampling: SamplingConfig) -> bool:
    """Tell, in double precision and unshifted, whether a level is guided: low < sigma <= high.

    Source: docs/method.md, 6.2; Kynkäänniemi et al. 2024.
    """
    low, high = sampling.guidance_interval
    return sampling.guidance_scale != 1.0 and low < sigma <= high


def sampling_steps(sampling: SamplingConfig) -> list[Step]:
    """Return the steps of a sampler in their order.

    Heun's method visits the end of each interval twice, as a corrector and as the next start;
    Euler's once; a consistency model jumps to 0 from each of its levels.

    Source: docs/method.md, 6.3.
    """
    if sampling.objective == "consistency":
        levels = (sampling.sigma_max, *sampling.revisited)
        return [Step(Visit(sigma, is_guided(sigma, sampling))) for sigma in levels]
    visits = [
        Visit(sigma, is_guided(sigma, sampling))
        for sigma in sigma_levels(
            sampling.steps, sampling.sigma_min, sampling.sigma_max, sampling.rho
        )
    ]
    corrected = sampling.solver == "heun"
    steps = [Step(start, end if corrected else None, end.sigma) for start, end in pairwise(visits)]
    return [*steps, Step(visits[-1])] if sampling.final_euler_step else steps


def evaluations(steps: Sequence[Step]) -> int:
    """Return the evaluations of the network per image (NFE) that these steps take.

    Source: docs/method.md, 6.3.
    """
    return sum(step.start.nfe + (step.end.nfe if step.end else 0) for step in steps)

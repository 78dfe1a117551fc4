"""The sampler's plan without tensors: which levels it visits and what that costs."""

from __future__ import annotations


def heun_nfe(
    steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    guidance_scale: float,
    guidance_interval: tuple[float, float],
    final_euler_step: bool,
) -> int:
    """Return the evaluations per image that `samplers.heun` will count.

    Every level but the first and the last is evaluated twice, as a corrector and as a predictor;
    a guided level costs two passes each time. Source: EPG, section 6 of docs/method.md.
    """
    low, high = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = [(low + i / (steps - 1) * (high - low)) ** rho for i in range(steps)]
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    visits = [1] + [2] * (steps - 2) + [1 + final_euler_step]
    return sum(
        count
        * (2 if guidance_scale != 1.0 and guidance_interval[0] < s <= guidance_interval[1] else 1)
        for s, count in zip(sigmas, visits, strict=True)
    )

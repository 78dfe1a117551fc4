"""Learning rate and EMA decay as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

from epg.config.training import OptimizerConfig


def learning_rate_at(step: int, config: OptimizerConfig) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then cosine or steps.

    With `decay: steps`, `decay_steps` maps steps, or fractions of the training, to factors.

    Source: docs/method.md, 4.3.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "cosine":
        span = max(config.steps - config.warmup_steps, 1)
        progress = (step - config.warmup_steps) / span
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    factor = 1.0
    for place, value in config.decay_steps.items():  # in ascending order
        if step >= (place if place >= 1.0 else place * config.steps):
            factor = value
    return config.learning_rate * factor


def ema_decay_at(step: int, decay: float, warmup: bool) -> float:
    """Return the decay of the weights' moving average after a step (0-based).

    With `warmup` it grows as (1 + k) / (10 + k) until it reaches `decay`, so that a short
    training does not average in its first steps for ever.

    Source: docs/method.md, 4.3.
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


def stage_at(step: int, steps_per_stage: int) -> int:
    """Return the stage (1, 2, ...) of the consistency pair law at a step (0-based).

    Source: docs/method.md, 5.2.
    """
    return step // steps_per_stage + 1


def layer_factors(names: Iterable[str], depth: int, decay: float) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter of a generator's encoder, by name.

    Block l of n has decay^(n - 1 - l), the last one 1; embeddings come before the first block.

    Source: docs/method.md, 4.3.
    """
    factors = {}
    for name in names:
        parts = name.split(".")
        if parts[0] != "encoder" or parts[1] == "norm":
            continue
        layer = int(parts[2]) if parts[1] == "blocks" else -1
        factors[name] = decay ** (depth - 1 - layer)
    return factors

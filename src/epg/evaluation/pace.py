"""How fast a training was, beside its plan; without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from epg.config.recipe import Recipe
from epg.evaluation.gpus import GPUS, MEASURED_SHARES
from epg.evaluation.planning import training_gflops


@dataclass(frozen=True)
class Pace:
    """How fast a training was, beside its plan: None for a device that is not known."""

    images_per_second: float
    tflops: float  # of training, by the closed form
    planned: float | None  # images per second
    share_of_peak: float | None


def pace(
    recipe: Recipe, objective: str, images_per_second: float, device: str, processes: int
) -> Pace:
    """Compare a training's measured rate with what `make_plan` says of the same GPUs.

    Args:
        recipe: the recipe.
        objective: `pretrain`, `denoising` or `consistency`.
        images_per_second: of all processes together.
        device: a GPU's own name, such as `NVIDIA H100 80GB HBM3`, or `cpu`.
        processes: that trained together.
    """
    gflops = training_gflops(recipe.with_assumed_classes(), objective)
    tflops = images_per_second * gflops / 1e3
    gpu = next((g for key, g in GPUS.items() if key.upper() in _plain(device)), None)
    if gpu is None:
        return Pace(images_per_second, tflops, None, None)
    planned = gpu.tflops * 1e3 * MEASURED_SHARES[objective].value / gflops * processes
    return Pace(images_per_second, tflops, planned, tflops / gpu.tflops / processes)


def _plain(device: str) -> str:
    return "".join(device.upper().split())

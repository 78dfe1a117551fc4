"""Sampling: ours against the same sampler in eager float32, as `epg sample` would run it.

Heun's method at 32 levels with guidance in its interval (75 evaluations) for XL/16, one evaluation
of L/16 as a consistency model, and the small network of Fashion-MNIST, where a pass is a few
hundred short kernels; random weights. Ours: 16-bit passes, compiled blocks, a pass recorded as a
CUDA graph. From noise to uint8 on the device, in whole batches. The two take turns in one process;
images a second are of the fastest round.

    python -m benchmarks.sample --output benchmarks/results/sample.json
    python -m benchmarks.sample --small              # seconds, also on a CPU
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.support import gpu
from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.evaluation.costs import generators
from epg.evaluation.generate import GeneratedImages
from epg.model.device import prepare_device
from epg.model.files import LoadedGenerator
from epg.model.generator import Generator

SERIES = 10_000  # images that are asked for: of so many compiling is worth its time


@dataclass(frozen=True)
class Case:
    """A model, how it samples, and how many images at once."""

    recipe: str
    objective: Any
    batch: int
    plain_batch: int
    batches: int  # of ours in a round


CASES = {
    "denoising": Case("imagenet256_xl16", "denoising", 64, 16, 1),
    "consistency": Case("imagenet256_l16", "consistency", 256, 64, 4),
    "small denoising": Case("fashion", "denoising", 500, 500, 2),
}


def loaded(recipe: Recipe, objective: Any, device: torch.device) -> LoadedGenerator:
    """Return a generator with random weights, none of them zero."""
    torch.manual_seed(0)
    with device:
        network = Generator(**recipe.generator_arguments()).eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return LoadedGenerator(
        generator=network,
        recipe=recipe.model_dump(mode="json"),
        objective=objective,
        classes=[str(i) for i in range(recipe.data.class_count)],
        sampling=recipe.sampling(objective),
        metadata={},
    )


def measure(case: Case, recipe: Recipe, device: torch.device, arguments: Any) -> dict[str, Any]:
    """Sample with both in turn; return a row."""
    plain = recipe.sampling(case.objective)
    how = {"ours": plain.model_copy(update={"precision": arguments.precision}), "plain": plain}
    batches = {"ours": case.batch, "plain": case.plain_batch}
    counts = {"ours": case.batch * case.batches, "plain": case.plain_batch}
    labels = np.arange(SERIES) % recipe.data.class_count
    series = {
        name: GeneratedImages(
            loaded(recipe, case.objective, device),
            labels if name == "ours" else labels[: case.plain_batch],
            seed=0,
            batch_size=batches[name],
            sampling=how[name],
            device=device,
        )
        for name in batches
    }
    best = {name: float("inf") for name in series}
    pictures: dict[str, Tensor] = {}

    def run(name: str) -> None:
        pictures[name] = series[name].read(0, counts[name])

    for name in series:
        run(name)
    count = min(counts.values())
    apart = (pictures["ours"][:count].float() - pictures["plain"][:count].float()).square().mean()
    spread = pictures["plain"][:count].float().std()
    gpu.peak_gib(device)
    for _ in range(arguments.rounds):
        for name in series:
            spent = gpu.seconds(partial(run, name), device)
            best[name] = min(best[name], spent / counts[name])
    rates = {name: 1 / value for name, value in best.items()}
    [cost] = [row for row in generators(recipe) if row["objective"] == case.objective]
    tflops = rates["ours"] * cost["gmacs_per_image"] * 2 / 1e3
    return {
        "objective": case.objective,
        "model": recipe.name,
        "nfe": series["ours"].nfe,
        "precision": arguments.precision,
        "batch": batches,
        "images_per_second": rates["ours"],
        "plain_images_per_second": rates["plain"],
        "tflops": tflops,
        "share_of_matrix_product": tflops / arguments.product,
        "difference_of_images": float(apart.sqrt() / spread),
        "peak_gib_of_both": gpu.peak_gib(device),
    }


def main() -> None:
    """Measure all cases, print, and write."""
    parser = gpu.parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    device = prepare_device()
    if arguments.small:
        arguments.rounds = 1
    arguments.product = gpu.matrix_product(device)

    def row(name: str) -> dict[str, Any]:
        case = CASES[name]
        if arguments.small:
            case = Case("smoke", case.objective, 8, 8, case.batches)
        return measure(case, load_recipe(case.recipe), device, arguments)

    gpu.compare(arguments.cases, row, "eager float32", arguments.product, arguments)


if __name__ == "__main__":
    main()

"""Sampling with the paper's models: ours against the same sampler in eager float32.

Heun's method at 32 levels with guidance in its interval (75 evaluations) for XL/16, and one
evaluation of L/16 as a consistency model; random weights. Ours: 16-bit passes, compiled blocks. The
two take turns in one process; images a second are of the fastest round.

    python -m benchmarks.sample --output benchmarks/results/sample.json
    python -m benchmarks.sample --small              # seconds, also on a CPU
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.support import gpu
from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.evaluation import generate
from epg.evaluation.costs import generators
from epg.model.device import prepare_device
from epg.model.files import LoadedGenerator
from epg.model.generator import Generator
from epg.model.precision import Precision

MODELS = {"denoising": "imagenet256_xl16", "consistency": "imagenet256_l16"}


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


def measure(objective: str, recipe: Recipe, device: torch.device, arguments: Any) -> dict[str, Any]:
    """Sample with both in turn; return a row."""
    sampling = recipe.sampling(objective)
    fast = sampling.model_copy(update={"precision": arguments.precision})
    models = {"ours": loaded(recipe, objective, device), "plain": loaded(recipe, objective, device)}
    Precision.full(device).compiled(models["ours"].generator)
    batches = {"ours": arguments.batch, "plain": arguments.plain_batch}
    if objective == "consistency":
        batches = {name: 4 * batch for name, batch in batches.items()}
    best = {name: float("inf") for name in models}
    pictures: dict[str, torch.Tensor] = {}

    def run(name: str, first: int) -> None:
        labels = torch.arange(first, first + batches[name], device=device)
        labels %= recipe.data.class_count
        how = fast if name == "ours" else sampling
        pictures[name], _ = generate._sample(models[name], labels, 0, first, how, None)

    for name in models:
        run(name, 0)
    count = min(batches.values())
    apart = (pictures["ours"][:count] - pictures["plain"][:count]).square().mean().sqrt()
    spread = pictures["plain"][:count].std()
    gpu.peak_gib(device)
    for _ in range(arguments.rounds):
        for name in models:
            spent = gpu.seconds(partial(run, name, 0), device)
            best[name] = min(best[name], spent / batches[name])
    rates = {name: 1 / value for name, value in best.items()}
    [cost] = [row for row in generators(recipe) if row["objective"] == objective]
    tflops = rates["ours"] * cost["gmacs_per_image"] * 2 / 1e3
    return {
        "objective": objective,
        "model": recipe.name,
        "nfe": cost["nfe"],
        "precision": arguments.precision,
        "batch": batches,
        "images_per_second": rates["ours"],
        "plain_images_per_second": rates["plain"],
        "tflops": tflops,
        "share_of_matrix_product": tflops / arguments.product,
        "difference_of_images": float(apart / spread),
        "peak_gib_of_both": gpu.peak_gib(device),
    }


def main() -> None:
    """Measure both objectives, print, and write."""
    parser = gpu.parser(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--plain-batch", type=int, default=16)
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    device = prepare_device()
    if arguments.small:
        arguments.batch, arguments.plain_batch, arguments.rounds = 8, 8, 1
    arguments.product = gpu.matrix_product(device)

    def row(objective: str) -> dict[str, Any]:
        recipe = load_recipe("smoke" if arguments.small else MODELS[objective])
        with torch.inference_mode():
            return measure(objective, recipe, device, arguments)

    gpu.compare(MODELS, row, "eager float32", arguments.product, arguments)


if __name__ == "__main__":
    main()

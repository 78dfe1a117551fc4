"""50,000 images through Inception on one device, as an evaluation looks at them; goal: 30 s.

Images are on the device already (256 pixels, random), as a generator leaves them; counted are the
features, the logits, the spatial features and all sums in float64, then the distance. The peer is
the same network as published, before batch normalisation is folded and channels come last. Weights
are random. On a GPU the features of 64 images are held against a CPU's. No GPU has run this yet.

    python -m benchmarks.looking --output benchmarks/results/looking.json
    python -m benchmarks.looking --small              # seconds, also on a CPU
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.features import random_weights
from benchmarks.support import gpu
from epg.evaluation.features.describing import GROUP, Describer
from epg.evaluation.features.inception import FidInception
from epg.evaluation.features.seen import Seen
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.precision import full_precision
from epg.model.device import prepare_device
from epg.protocol import SAMPLE_FEATURES

WHOLE = 50_000
SPAN = 4 * GROUP
IMAGES = "Inception, 256 pixels"


def network(device: torch.device, *, fold: bool) -> FidInception:
    """Return the network with the weights of seed 0."""
    found = FidInception()
    random_weights(found)
    return found.fold(device) if fold else found.eval().requires_grad_(False).to(device)


def look(judge: FidInception, images: torch.Tensor, count: int) -> Describer:
    """Look at `count` images, the same ones again and again."""
    describer = Describer([judge], SAMPLE_FEATURES)
    labels = np.zeros(len(images), np.int64)
    for start in range(0, count, len(images)):
        few = min(len(images), count - start)
        describer.add(images[:few], labels[:few], start)
    return describer


def difference(judge: FidInception, images: torch.Tensor) -> float:
    """Return how far features lie from a CPU's, by the largest of them."""
    with full_precision():
        found = judge.describe(images[:GROUP]).pool.cpu()
    wanted = network(torch.device("cpu"), fold=True).describe(images[:GROUP].cpu()).pool
    return float((found - wanted).abs().max() / wanted.abs().max())


def measure(device: torch.device, arguments: Any) -> dict[str, Any]:
    """Look with both in turn; return a row."""
    count = GROUP if arguments.small or device.type == "cpu" else WHOLE
    few = max(GROUP, count // 10)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (SPAN, 256, 256, 3), dtype=torch.uint8, device=device)
    judges = {"ours": network(device, fold=True), "plain": network(device, fold=False)}
    for judge in judges.values():
        look(judge, images, SPAN if device.type == "cuda" else GROUP)  # choose kernels
    gpu.peak_gib(device)
    best = {name: float("inf") for name in judges}
    found: dict[str, Describer] = {}

    def work(name: str) -> None:
        found[name] = look(judges[name], images, count if name == "ours" else few)

    for _ in range(1 if device.type == "cpu" else arguments.rounds):
        for name in judges:
            spent = gpu.seconds(partial(work, name), device)
            best[name] = min(best[name], spent / (count if name == "ours" else few))
    peak, begun = gpu.peak_gib(device), time.perf_counter()
    moments = Seen.described([found["ours"].seen()[0]]).moments
    distance = frechet_distance(moments, moments)
    return {
        "images": count,
        "images_per_second": 1 / best["ours"],
        "plain_images_per_second": 1 / best["plain"],
        f"seconds_of_{WHOLE}": WHOLE * best["ours"],
        "seconds_of_the_distance": time.perf_counter() - begun,
        "distance_to_itself": distance,
        "peak_gib": peak,
        "largest_relative_difference_to_a_cpu": difference(judges["ours"], images),
    }


def main() -> None:
    arguments = gpu.parser(__doc__ or "").parse_args()
    device = prepare_device()
    product = gpu.matrix_product(device)
    gpu.compare([IMAGES], lambda _: measure(device, arguments), "as published", product, arguments)


if __name__ == "__main__":
    main()

"""Training steps of the paper's models: ours against the same network trained plainly.

Plainly: eager, float16 with a scaled loss, a norm per tensor that is read on the host, moving
averages tensor by tensor, and the encoder's passes one after the other, over the same network
with what it spares (of the last block of pre-training all but the CLS token). Windows of steps
take turns in one process, on the same synthetic uint8 batches that lie on the device. Images a
second are of the fastest window. TFLOP/s are by the closed form of `epg plan`, which counts whole
passes, and stand beside a matrix product of the same run.

    python -m benchmarks.train_step --output benchmarks/results/train_step.json
    python -m benchmarks.train_step --small          # seconds, also on a CPU
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.support import gpu
from epg.config.loading import load_recipe
from epg.config.recipe import Recipe
from epg.data.augment import normalize, to_float, two_views
from epg.diffusion.preconditioning import c_in, c_noise, per_image
from epg.diffusion.seeds import SampleNoise
from epg.evaluation.planning import training_gflops
from epg.model.device import prepare_device
from epg.model.precision import Precision
from epg.objectives.contrastive import info_nce
from epg.training.finetuning import Consistency, Denoising
from epg.training.pretraining import Pretraining
from epg.training.step import Stepper
from epg.training.world import World

STAGES = {
    "pretrain": "imagenet256_b16",
    "denoising": "imagenet256_xl16",
    "consistency": "imagenet256_l16",
}


class Plain:
    """The same losses over the same networks, as one would first write them."""

    def __init__(self, stage: str, objective: Any, device: torch.device) -> None:
        self.stage, self.objective, self.device = stage, objective, device
        self.network: nn.Module = objective.network
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**14)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

    def step(self, images: Tensor, labels: Tensor, step: int) -> float:
        """Make a step; return its loss."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.float16):
            if self.stage == "pretrain":
                loss = self._pretraining(images, step)
            else:
                loss = sum(self.objective.losses(images, labels, step).terms.values())
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        found = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = sum(gradient.norm().item() ** 2 for gradient in found) ** 0.5
        if norm > 0.5:
            for gradient in found:
                gradient.mul_(0.5 / norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for average, parameter in pairs:
                average.mul_(0.9999).add_(parameter, alpha=0.0001)
        return loss.item()

    def _pretraining(self, images: Tensor, step: int) -> Tensor:
        """Six passes of the encoder, one after the other."""
        own: Pretraining = self.objective
        recipe = own._recipe
        random = SampleNoise(recipe.seed, "plain", step, 0, len(images), self.device)
        mean, std = recipe.data.normalisation
        with torch.autocast(self.device.type, enabled=False):
            views = [
                normalize(view, mean, std)
                for view in two_views(images, recipe.pretrain.augmentation, True, random)
            ]
            clean = to_float(images, mean, std)
            noise = random.normal("noise", clean.shape[1:])
        noisier, cleaner = own._neighbours(step)
        shift = recipe.sigma_shift

        def seen(encoder: Any, x: Tensor, level: float) -> Tensor:
            sigma = torch.full((len(x),), shift * level, device=self.device)
            scaled = per_image(c_in(sigma, 0.5)) * (x + per_image(sigma) * noise)
            return encoder.features(scaled, c_noise(sigma))

        floor = recipe.diffusion.sigma_min
        queries = [own.projector(seen(own.encoder, view, floor)) for view in views]
        query = seen(own.encoder, clean, noisier)
        with torch.no_grad():
            keys = [own._target_projector(seen(own._target_encoder, v, floor)) for v in views]
            key = seen(own.encoder, clean, cleaner)
        return (
            info_nce(queries[0], keys[1], 0.2)
            + info_nce(queries[1], keys[0], 0.2)
            + info_nce(query, key, 0.1)
        )


def build(stage: str, recipe: Recipe, device: torch.device, precision: Precision) -> Any:
    """Return the objective of a stage with fresh weights."""
    if stage == "pretrain":
        return Pretraining(recipe, device, World.single(device), precision)
    first = Pretraining(recipe, torch.device("cpu"))
    encoder, projector = first.encoder.state_dict(), first.projector.state_dict()
    world = World.single(device)
    if stage == "denoising":
        return Denoising(recipe, encoder, device, world, precision)
    return Consistency(recipe, encoder, projector, device, world, precision)


def ours(stage: str, recipe: Recipe, device: torch.device) -> Callable[..., Any]:
    """Return our step."""
    section = getattr(recipe, stage)
    precision = Precision(section.precision, stage, device)
    objective = build(stage, recipe, device, precision)
    return Stepper(objective, section, World.single(device), precision).step


def plain(stage: str, recipe: Recipe, device: torch.device) -> Callable[..., Any]:
    """Return the plain step: its networks are not compiled and not cast by us."""
    precision = Precision.full(device)
    precision.compiles = False
    return Plain(stage, build(stage, recipe, device, precision), device).step


def measure(stage: str, recipe: Recipe, device: torch.device, arguments: Any) -> dict[str, Any]:
    """Run windows of both in turn; return a row."""
    ways = {"ours": ours, "plain": plain}
    made = {name: way(stage, recipe, device) for name, way in ways.items()}
    batches = {"ours": arguments.batch, "plain": arguments.plain_batch}
    best = {name: float("inf") for name in made}
    peaks: dict[str, float | None] = {}
    done = 0

    def window(name: str, steps: int) -> float:
        nonlocal done
        size, batch = recipe.data.image_size, batches[name]
        shape = (batch, size, size, recipe.data.channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        labels = torch.randint(0, recipe.data.class_count, (batch,), device=device)

        def run() -> None:
            nonlocal done
            for _ in range(steps):
                made[name](images, labels, done)
                done += 1

        return gpu.seconds(run, device) / (steps * batch)

    first = {name: window(name, arguments.warmup) * arguments.warmup for name in made}
    for _ in range(arguments.rounds):
        for name in made:
            gpu.peak_gib(device)
            best[name] = min(best[name], window(name, arguments.steps))
            peaks[name] = gpu.peak_gib(device)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    rates = {name: 1 / value for name, value in best.items()}
    tflops = rates["ours"] * training_gflops(recipe, stage) / 1e3
    return {
        "stage": stage,
        "model": recipe.name,
        "batch": batches,
        "images_per_second": rates["ours"],
        "plain_images_per_second": rates["plain"],
        "tflops": tflops,
        "share_of_matrix_product": tflops / arguments.product,
        # With the weights and moments of the other beside them on the device.
        "peak_gib_beside_plain": peaks["ours"],
        "plain_peak_gib_beside_ours": peaks["plain"],
        "warmup_seconds": {name: value * batches[name] for name, value in first.items()},
    }


def main() -> None:
    """Measure all stages, print, and write."""
    parser = gpu.parser(__doc__)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--plain-batch", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    device = prepare_device()
    if arguments.small:
        arguments.batch = arguments.plain_batch = 8
        arguments.warmup = arguments.steps = 2
    arguments.product = gpu.matrix_product(device)

    def row(stage: str) -> dict[str, Any]:
        recipe = load_recipe("smoke" if arguments.small else STAGES[stage])
        return measure(stage, recipe, device, arguments)

    gpu.compare(arguments.stages.split(","), row, "plain", arguments.product, arguments)


if __name__ == "__main__":
    main()

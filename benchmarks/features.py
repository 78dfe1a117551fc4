"""Inception's features: ours against torch-fidelity's, on the same random weights.

Ours folds batch normalisation into the convolutions, keeps channels last and resizes by two matrix
products. Two figures: images already in memory to features, and generated images to mean and
covariance, where the usual way writes and reads PNG files. Ours and theirs take turns; the figure
is the least process CPU time of all rounds, children included. Features are compared first.

    OMP_NUM_THREADS=1 python benchmarks/features.py --output benchmarks/results/features.json
    python benchmarks/features.py --images 8 --rounds 1    # seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from epg.evaluation.features.inception import FidInception
from epg.evaluation.metrics.moments import MomentAccumulator

OURS, THEIRS = "epg", "torch-fidelity"
BATCH = 16


def random_weights(model: FidInception) -> None:
    """Weights that keep the size of activations, and statistics away from 0 and 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def both(folder: Path) -> tuple[FidInception, Any]:
    """Our network and theirs with the same weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours = FidInception()
    random_weights(ours)
    path = folder / "weights.pth"
    torch.save(ours.state_dict(), path)
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    )
    return ours.fold(), theirs.eval()


@torch.inference_mode()
def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each way."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            spent = time.process_time() - begun
            least[name] = min(spent, least.get(name, spent))
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, size = arguments.images, arguments.size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, size // 8, size // 8, 3), dtype=np.uint8)
    images = torch.from_numpy(noise.repeat(8, 1).repeat(8, 2))  # blocks: PNG has something to do
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ours, theirs = both(folder)

        def our_features() -> torch.Tensor:
            return torch.cat([ours.describe(part).pool for part in images.split(BATCH)])

        def their_features() -> torch.Tensor:
            parts = images.permute(0, 3, 1, 2).contiguous().split(BATCH)
            return torch.cat([theirs(part)[0] for part in parts])

        def our_statistics() -> None:
            sums = MomentAccumulator(2048)
            for part in images.split(BATCH):
                sums.add(ours.describe(part).pool)
            sums.moments()

        def their_statistics() -> None:
            for i, pixels in enumerate(images.numpy()):
                Image.fromarray(pixels).save(folder / f"{i}.png")
            found = []
            for start in range(0, count, BATCH):
                names = range(start, min(start + BATCH, count))
                read = [np.asarray(Image.open(folder / f"{i}.png").convert("RGB")) for i in names]
                part = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()
                found.append(theirs(part)[0])
            features = torch.cat(found).double().numpy()
            features.mean(0)
            np.cov(features, rowvar=False)

        with torch.inference_mode():
            one, other = our_features(), their_features()
        difference = float((one - other).abs().max() / other.abs().max())
        assert difference < 1e-4, difference
        features = measure({OURS: our_features, THEIRS: their_features}, arguments.rounds)
        whole = measure({OURS: our_statistics, THEIRS: their_statistics}, arguments.rounds)
    result = {
        "benchmark": "features",
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__},
        "threads": 1,
        "images": count,
        "size": size,
        "rounds": arguments.rounds,
        "largest_relative_difference": difference,
        "cpu_seconds_per_image": {
            "features": {name: value / count for name, value in features.items()},
            "generated_images_to_statistics": {n: value / count for n, value in whole.items()},
        },
        "ratios": {
            "features": features[THEIRS] / features[OURS],
            "generated_images_to_statistics": whole[THEIRS] / whole[OURS],
        },
    }
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.2f} x {THEIRS}")
    print(f"largest relative difference of features: {difference:.1e}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

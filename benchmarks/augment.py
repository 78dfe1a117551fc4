"""Two augmented views of each image: ours, in batches, beside torchvision's, image by image.

CPU time an image on one thread; on a GPU, if there is one, also wall time an image. torchvision's
transforms are those of a usual BYOL pipeline, on uint8 tensors, with the same strengths.

    PYTHONPATH=. python benchmarks/augment.py --output benchmarks/results/augment.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torchvision.transforms import v2

from benchmarks.support.rounds import OURS, ratios, report, take_turns, versions
from epg.config.data import AugmentationConfig
from epg.data.augment import two_views
from epg.diffusion.seeds import SampleNoise


def theirs(size: int, config: AugmentationConfig, view: int) -> v2.Compose:
    """Return torchvision's transforms of one of the two views."""
    low, high = config.blur_sigma
    brightness, contrast, saturation, hue = config.color_jitter
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(config.crop_scale_min, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply(
                [v2.ColorJitter(brightness, contrast, saturation, hue)], config.color_jitter_prob
            ),
            v2.RandomGrayscale(config.grayscale_prob),
            v2.RandomApply([v2.GaussianBlur(13, (low, high))], config.blur_prob[view]),
            v2.RandomSolarize(128, config.solarize_prob[view]),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config, count, size = AugmentationConfig(), given.images, given.size
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
    transforms = [theirs(size, config, view) for view in (0, 1)]

    def ours() -> None:
        two_views(images, config, True, SampleNoise(0, "benchmark", 0, 0, count, images.device))

    def one_by_one() -> None:
        for image in images.permute(0, 3, 1, 2):
            for transform in transforms:
                transform(image)

    rows = take_turns({OURS: ours, "torchvision v2": one_by_one}, given.rounds)
    for row in rows.values():
        row["milliseconds_per_image"] = row["cpu"] / count * 1e3
    content = {
        "size": size,
        "images": count,
        "rounds": given.rounds,
        "versions": versions("torch", "torchvision"),
        "rows": rows,
        "ratios": {"two views, CPU": ratios(rows)},
    }
    if torch.cuda.is_available():
        content["gpu_images_per_second"] = on_gpu(config, size)
    report("augment", given.output, content)


def on_gpu(config: AugmentationConfig, size: int, count: int = 128) -> float:
    """Return images a second on the GPU of this machine."""
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device="cuda")
    for step in range(25):
        if step == 5:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        two_views(images, config, True, SampleNoise(0, "b", step, 0, count, images.device))
    torch.cuda.synchronize()
    return 20 * count / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()

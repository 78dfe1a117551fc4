"""What pre-training is worth on Fashion-MNIST: each loss alone, both, and none, equally fine-tuned.

The digits' ablation (support/ablation.py has the variants, the rows and the table) on 70,000 real
pictures of 28×28 pixels, with the recipe `fashion`; one seed per variant. Judges that no training
saw: a support-vector classifier on raw pixels, fitted on 2,000 real training images, the features
of the pipeline's classifier (fitted on the training split, never on samples) with the held-out
images in the Fréchet distance, and a logistic regression on the frozen encoder's features.

The data are the four IDX files of Fashion-MNIST, as Debian's package `dataset-fashion-mnist`
installs them; nothing is downloaded. Minutes on one GPU; on a CPU `--small` takes a smaller network
and batch, and about an hour.

    python -m benchmarks.fashion_ablation --data FOLDER --output fashion.json --pictures pictures/
    python -m benchmarks.fashion_ablation --data FOLDER --pretrain-steps 300 --steps 100 300
    python -m benchmarks.fashion_ablation --data FOLDER --small --device cpu --steps 300
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support import ablation
from epg.config.loading import load_recipe, parse_overrides
from epg.model.precision import COMPILE_VARIABLE

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
#: A network and a batch for two CPU cores.
SMALL: dict[str, Any] = {
    "model.embed_dim": 96,
    "model.depth": 3,
    "pretrain.batch_size": 128,
    "denoising.batch_size": 64,
    "consistency.batch_size": 64,
    "evaluate.num_samples": 1000,
    "evaluate.classifier_epochs": 1,
}
_WARMUP = 0.1  # of a training, where it is shorter than the recipe's


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe's settings for a comparison that is short and judged by the same judges."""
    settings: dict[str, Any] = {
        "data.source": f"idx:{arguments.data.absolute()}",
        "evaluate.num_samples": 2000,
        "evaluate.svc": {"gamma": 0.02, "C": 10.0, "pixel_max": 1.0, "train_images": 2000},
        # A short training passes the stages of a long one.
        "consistency.steps_per_stage": max(1, -(-max(arguments.steps) // 4)),
    }
    if arguments.small:
        settings |= SMALL
    settings |= {
        "pretrain.steps": arguments.pretrain_steps,
        "pretrain.warmup_steps": int(_WARMUP * arguments.pretrain_steps),
    }
    return settings | parse_overrides(arguments.set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEBIAN, help=f"IDX files; default: {DEBIAN}")
    parser.add_argument("--pretrain-steps", type=int, default=300)
    parser.add_argument("--small", action="store_true", help="for a CPU")
    arguments = ablation.arguments_of(parser, seeds=[0], steps=[300])
    if not list(arguments.data.glob("*images*idx3*")):
        print(f"{arguments.data}: no IDX files there; give their folder with --data. Not measured.")
        return
    # Compiling takes a minute, as long as all steps of a training here.
    os.environ.setdefault(COMPILE_VARIABLE, "0")
    device = ablation.choose_device(arguments.device)
    settings = settings_of(arguments)
    if arguments.no_auxiliary:
        settings["consistency.auxiliary_weight"] = 0.0
    load_recipe("fashion", settings)  # refused at once, not after the first training
    head = ablation.head_of("fashion_ablation", "fashion", settings, device)
    head["recipe"]["data"]["source"] = "idx"  # whatever folder they lie in
    with tempfile.TemporaryDirectory(prefix="ablation-") as scratch:
        folder = (arguments.work or Path(scratch)).absolute()
        bench = ablation.Bench(
            "fashion", settings, folder, probe_images=10_000, pictures=arguments.pictures
        )
        ablation.measured(arguments, bench, head)


if __name__ == "__main__":
    main()

"""The ablation of pre-training: its runs and judges; `ablation_rows.py` has what comes out.

A row is written as soon as it is measured, and one that the JSON has is not measured again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.ablation_rows import (
    MEASURES,
    VARIANTS,
    Row,
    Settings,
    drawn,
    key,
    opened,
    show,
    written,
)
from epg.config import OBJECTIVES
from epg.config.loading import load_recipe
from epg.data.augment import to_float
from epg.data.reader import ShardReader
from epg.diffusion.preconditioning import c_in, c_noise, per_image
from epg.model.device import prepare_device
from epg.model.encoder import Encoder
from epg.model.files import load_weights
from epg.runs.handover import fetch_output
from epg.runs.run import Run
from epg.stages.evaluate import evaluate
from epg.stages.finetune import finetune
from epg.stages.inputs import stored_manifest, stored_output
from epg.stages.pretrain import pretrain
from epg.stages.reference_statistics import reference_statistics
from epg.stages.shard import shard


@dataclass(frozen=True)
class Bench:
    """Where runs lie, and what every run of this benchmark has in common."""

    recipe: str
    settings: Settings
    folder: Path
    probe_images: int | None = None  # that the linear probe is fitted on; None: all
    pictures: Path | None = None  # where grids of samples go

    def run(self, name: str, seed: int, *settings: Settings) -> Run:
        """Open the run `name` of a seed; later settings win."""
        merged = dict(self.settings)
        for more in settings:
            merged |= more
        name = f"{name.replace(' ', '-')}-{seed}"
        return Run.open(self.recipe, merged | {"seed": seed}, str(self.folder), name)

    def copied(self, origin: Run, run: Run) -> Run:
        """Give a new run all results of another; stages then reuse what still fits."""
        if not (self.folder / run.name).exists():
            shutil.copytree(
                self.folder / origin.name, self.folder / run.name, copy_function=_shared
            )
        return run


def _shared(source: str, copy: str) -> None:
    """Shards are never changed: all runs have one copy of them."""
    (os.link if source.endswith(".tar") else shutil.copy2)(source, copy)


def prepared(bench: Bench, seed: int) -> None:
    """Make shards and judges, which all variants of a seed share."""
    judges = bench.run("judges", seed)
    shard(judges)
    reference_statistics(judges)


def pretrained(bench: Bench, variant: str, seed: int) -> Run:
    """Return a run with shards, judges and the encoder of a variant."""
    judges = bench.run("judges", seed)
    run = bench.copied(judges, bench.run(f"encoder {variant}", seed, VARIANTS[variant]))
    pretrain(run)
    return run


def finetuned(
    bench: Bench, origin: Run, variant: str, objective: str, seed: int, budget: Settings
) -> tuple[dict[str, float], float]:
    """Return the figures of a generator grown from a variant's encoder, and the seconds it took."""
    run = bench.run(f"{objective} {variant}", seed, VARIANTS[variant], budget)
    shutil.rmtree(bench.folder / run.name, ignore_errors=True)
    run = bench.copied(origin, run)
    begun = time.perf_counter()
    finetune(run, objective)
    seconds = time.perf_counter() - begun
    judged = evaluate(run, objective)
    if bench.pictures is not None:
        bench.pictures.mkdir(parents=True, exist_ok=True)
        steps = budget[f"{objective}.steps"]
        name = f"{objective}-{steps}-{variant}-{seed}.png".replace(" ", "-")
        fetch_output(run, judged, "grid", bench.pictures / name)
    return judged.metrics, seconds


def linear_probe(run: Run, most: int | None = None) -> float:
    """Held-out accuracy of a logistic regression on the frozen encoder's features z.

    Args:
        run: pre-trained.
        most: images of the training split that it is fitted on; None: all.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    with tempfile.TemporaryDirectory() as scratch:
        handed = stored_output(run, "pretrain")
        path = handed.fetch(run.store, "encoder", Path(scratch) / "encoder.safetensors")
        tensors, header = load_weights(path, "encoder")
    encoder = Encoder(**header["arguments"]).eval()
    encoder.load_state_dict(tensors)
    recipe, manifest = run.recipe, stored_manifest(run)
    level = recipe.sigma_shift * recipe.diffusion.sigma_min

    device = prepare_device()
    encoder.to(device)

    @torch.inference_mode()
    def described(split: str, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        images, labels = ShardReader(run.store, manifest, split).load()
        if most is not None and most < len(images):
            chosen = np.random.default_rng(recipe.seed).permutation(len(images))[:most]
            images, labels = images[chosen], labels[chosen]
        features = []
        for part in torch.tensor(images).split(1000):
            clean = to_float(part.to(device), *recipe.data.normalisation)
            sigma = torch.full((len(clean),), level, dtype=torch.float64, device=device)
            scaled = per_image(c_in(sigma, recipe.diffusion.sigma_data)) * clean
            features.append(encoder.features(scaled, c_noise(sigma)).cpu())
        return torch.cat(features).numpy(), labels

    features, labels = described("train", most)
    scaler = StandardScaler().fit(features)
    probe = LogisticRegression(max_iter=2000).fit(scaler.transform(features), labels)
    features, labels = described("held-out")
    return float(probe.score(scaler.transform(features), labels))


def budgets(bench: Bench, steps: list[int], full: bool) -> Iterator[tuple[str, Settings]]:
    """Yield the objectives with the settings of each budget."""
    recipe = load_recipe(bench.recipe, bench.settings)
    for objective in OBJECTIVES:
        own = getattr(recipe, objective)
        for count in sorted({*steps, *([own.steps] if full else [])}):
            warmup = min(own.warmup_steps, count // 5)
            yield (
                objective,
                {f"{objective}.steps": count, f"{objective}.warmup_steps": warmup},
            )


def measure(bench: Bench, variant: str, seed: int, todo: list[tuple[str, Settings]]) -> list[Row]:
    """Pre-train once, then fine-tune and judge once per objective and budget."""
    origin = pretrained(bench, variant, seed)
    probe = linear_probe(origin, bench.probe_images)
    rows = []
    for objective, budget in todo:
        metrics, seconds = finetuned(bench, origin, variant, objective, seed, budget)
        rows.append(
            {
                "variant": variant,
                "objective": objective,
                "seed": seed,
                "steps": budget[f"{objective}.steps"],
                "linear_probe": probe,
                **{name: metrics[name] for name in MEASURES if name in metrics},
                "nearest_neighbour_ratio": metrics["nearest_neighbour_ratio"],
                "finetune_seconds": seconds,
            }
        )
    return rows


def arguments_of(parser: argparse.ArgumentParser, **defaults: Any) -> argparse.Namespace:
    """Read what every ablation takes, with other defaults where they are given."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, nargs="*", default=[400], help="of fine-tuning")
    parser.add_argument("--full", action="store_true", help="also with the recipe's own steps")
    parser.add_argument("--no-auxiliary", action="store_true", help="weight 0 in every variant")
    parser.add_argument("--workers", type=int, default=1, help="variants at a time")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--work", type=Path, help="folder of the runs; default: a temporary one")
    parser.add_argument("--pictures", type=Path, help="folder for a grid of samples of every row")
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    parser.add_argument("--figure", type=Path, help="draw the result, of all seeds, as an SVG")
    parser.set_defaults(**defaults)
    return parser.parse_args()


def choose_device(name: str) -> str:
    """Hide the GPU, or insist on it; returns what will compute, in words."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device here")
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def head_of(benchmark: str, recipe: str, settings: Settings, device: str) -> Row:
    """Return what a result says besides its rows."""
    return {
        "benchmark": benchmark,
        "recipe": load_recipe(recipe, settings).model_dump(mode="json", exclude={"seed"}),
        "device": device,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def measured(arguments: argparse.Namespace, bench: Bench, head: Row) -> Row:
    """Measure what the result does not have yet, writing each row when it is there."""
    result = opened(arguments.output, head)
    done = {key(row) for row in result["rows"]}
    wanted = []
    for seed in arguments.seeds:
        for variant in arguments.variants:
            todo = [
                (objective, budget)
                for objective, budget in budgets(bench, arguments.steps, arguments.full)
                if (variant, objective, seed, budget[f"{objective}.steps"]) not in done
            ]
            if todo:
                wanted.append((bench, variant, seed, todo))
    for seed in dict.fromkeys(seed for _, _, seed, _ in wanted):
        prepared(bench, seed)
    for rows in _each(wanted, arguments.workers):
        result["rows"] += rows
        written(result, arguments.output)
    written(result, arguments.output)
    show(result["summary"])
    if arguments.output:
        print(f"written to {arguments.output}")
    if arguments.figure:
        arguments.figure.write_text(drawn(result["rows"]), encoding="utf-8")
    return result


def _each(wanted: list[tuple[Any, ...]], workers: int) -> Iterator[list[Row]]:
    """Yield the rows of each variant when they are there."""
    if workers == 1:
        yield from (measure(*one) for one in wanted)
        return
    # Small networks leave a GPU waiting for launches: several processes fill it.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in as_completed([pool.submit(measure, *one) for one in wanted]):
            yield found.result()

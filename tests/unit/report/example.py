"""A made-up run, complete enough to fill every part of the page."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from epg.config.loading import load_recipe
from epg.evaluation.grid import class_grid, trajectory_strip
from epg.report.facts import Dataset, RunFacts
from epg.report.images import class_sheet, class_strips
from epg.runs.record import StageRecord
from epg.stages.findings import shown_stages

RECIPE = """
name: digits
description: Handwritten digits, 8×8 pixels, by a small vision transformer.
seed: 0
data: {source: digits, image_size: 8, channels: 1, num_classes: 10, mean: [0.3], std: [0.37]}
model: {patch_size: 2, embed_dim: 128, depth: 3, num_heads: 4}
pretrain: {steps: 400, batch_size: 256, learning_rate: 1.0e-3}
denoising: {steps: 1200, batch_size: 256, learning_rate: 1.0e-3}
consistency: {steps: 1000, batch_size: 256, learning_rate: 1.0e-3}
evaluate: {networks: [classifier], num_samples: 1000, svc: {gamma: 0.001, C: 10, pixel_max: 16}}
gate:
  denoising: {svc_agreement: {min: 0.93}, nearest_neighbour_ratio: {min: 0.7}}
  consistency: {svc_agreement: {min: 0.85}, nearest_neighbour_ratio: {min: 0.7}}
"""

DIGEST = "sha256:3f7a1c0be41d5ab0c7e9d2b7f6a80d1e5c93b24f7706e1ad94c2a6b1d0e8f735"
VERSIONS = {
    "epg": "0.1.0",
    "python": "3.11.2",
    "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
    "cores": 2,
    "torch": "2.15.0",
    "numpy": "2.4.0",
    "kfp": "2.17.0",
    "git_commit": "a1b2c3d4e5f6",
}


def record(
    stage: str,
    seconds: float,
    metrics: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
) -> StageRecord:
    return StageRecord(
        stage=stage,
        fingerprint="f" * 64,
        config={},
        inputs={},
        outputs={},
        metrics=metrics or {},
        details=details or {},
        started="2026-01-31T12:00:00+00:00",
        finished="2026-01-31T12:05:52+00:00",
        duration_seconds=seconds,
        versions=dict(VERSIONS),
    )


def evaluation(agreement: float, nfe: int, speed: float, frechet: float) -> dict[str, Any]:
    return {
        "frechet_distance": frechet,
        "precision": 0.9131,
        "recall": 0.8422,
        "class_agreement": agreement + 0.011,
        "svc_agreement": agreement,
        "classifier_held_out_accuracy": 0.9833,
        "nearest_neighbour_ratio": 0.94 + (nfe == 1) * 0.07,
        "nfe": nfe,
        "parameters": 1_214_468,
        "gmacs": 0.01963,
        "images_per_second": speed,
        "num_samples": 1000,
    }


def by_class(mean: float, count: int = 10) -> list[float]:
    return [min(1.0, mean + 0.05 * math.sin(3 * label)) for label in range(count)]


def records() -> dict[str, StageRecord]:
    listed = [
        record("shard", 0.9),
        record("reference-statistics", 6.2),
        record("pretrain", 74.3),
        record("count-gflops", 0.4, {"parameters_generator": 1214468, "gmacs": 0.0196}),
        record("finetune-denoising", 121.8),
        record("finetune-consistency", 138.1),
        record(
            "evaluate-denoising",
            19.6,
            evaluation(0.962, 63, 212.4, 3.41),
            {
                "svc_agreement_by_class": by_class(0.955),
                "feature_networks": {"classifier": "digits-cnn"},
            },
        ),
        record(
            "evaluate-consistency",
            5.1,
            evaluation(0.884, 1, 5120.0, 9.87),
            {
                "svc_agreement_by_class": by_class(0.88),
                "feature_networks": {"classifier": "digits-cnn"},
            },
        ),
    ]
    for objective, bar in (("denoising", 0.93), ("consistency", 0.85)):
        reason = f"svc_agreement ≥ {bar} and nearest_neighbour_ratio ≥ 0.7 are met"
        model = f"digits-{objective}"
        uri = f"file:///home/ada/epg/runs/registry/{model}/{DIGEST[7:19]}"
        listed += [
            record(f"gate-{objective}", 0.1, {"verdict": "pass", "reason": reason}),
            record(
                f"register-{objective}",
                0.3,
                {"model": model, "version": DIGEST[7:19], "digest": DIGEST, "uri": uri},
            ),
        ]
    return {one.stage: one for one in listed}


def losses(steps: int, terms: tuple[str, ...], seed: int, scale: float) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    rows = []
    for step in range(10, steps + 1, 10):
        falling = math.exp(-5 * step / steps) + 0.12
        parts = {
            f"loss_{term}": scale * falling / (i + 1) * (1 + 0.12 * random.normal())
            for i, term in enumerate(terms)
        }
        alone = scale * falling * (1 + 0.1 * random.normal())
        rows.append(
            {
                "step": step,
                "images_seen": step * 256,
                "loss": sum(parts.values()) if parts else alone,
                **parts,
                "learning_rate": 1e-3 * min(1, step / 50) * (1 + math.cos(3.14 * step / steps)) / 2,
                "grad_norm": 0.8 * falling + 0.1 * abs(random.normal()),
                "images_per_second": 1100 + 30 * random.normal(),
            }
        )
    return rows


def series() -> dict[str, list[dict[str, Any]]]:
    return {
        "pretrain": losses(400, ("contrastive", "consistency"), 1, 3.0),
        "finetune-denoising": losses(1200, (), 2, 6.0),
        "finetune-consistency": losses(1000, ("pseudo_huber", "auxiliary"), 3, 0.6),
    }


def digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random blots in place of digits: uint8 [200, 8, 8, 1] and labels, 20 of each class."""
    images = np.random.default_rng(seed).integers(0, 256, (200, 8, 8, 1), np.uint8)
    return images, np.arange(200) % 10


def example(images: np.ndarray | None = None, labels: np.ndarray | None = None) -> RunFacts:
    """A finished, successful run; `dataclasses.replace` makes the others of it."""
    if images is None or labels is None:
        images, labels = digits()
    grid = class_grid(images, labels)
    one_of_each = [images[labels == c][0] for c in range(10)]
    path = [[(x * (k / 9) + 128 * (1 - k / 9)) for x in one_of_each] for k in range(10)]
    trajectory = trajectory_strip(np.array(path).astype(np.uint8)[:, :4])
    strips = class_strips(images, labels, range(10))
    return RunFacts(
        name="digits",
        store_uri="file:///home/ada/epg/runs",
        recipe=load_recipe(RECIPE),
        stages=shown_stages(),
        recipe_text=RECIPE.strip(),
        recipe_argument="digits",
        records=records(),
        dataset=Dataset(
            "digits", 8, 1, [str(c) for c in range(10)], {"train": 1438, "held-out": 359}
        ),
        images={
            "grid-denoising": grid,
            "grid-consistency": grid,
            "trajectory-denoising": trajectory,
        },
        sheets=dict.fromkeys(("denoising", "consistency"), class_sheet(images, labels, range(10))),
        strips={"real": strips, "denoising": strips, "consistency": strips},
        series=series(),
        generated="2026-01-31T12:06:10+00:00",
    )

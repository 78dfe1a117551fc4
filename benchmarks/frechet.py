"""The Fréchet distance's trace term: ours, SciPy's matrix root, NumPy's eigenvalues.

Two sets of 6,000 × 2,048 non-negative features (512 latent directions with exponential decay,
and noise), and the same with 1,000 rows, whose covariances have lower rank. The ways take turns,
in one process with the same threads; the figure is the median of their times.

    python benchmarks/frechet.py --output benchmarks/results/frechet.json
    python benchmarks/frechet.py --width 256 --rows 1000 --few-rows 100    # seconds
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import scipy.linalg
import torch

from epg.evaluation.metrics.frechet import trace_of_root
from epg.evaluation.metrics.moments import Moments

OURS, SQRTM, EIGVALS = "ours", "scipy.linalg.sqrtm", "numpy.linalg.eigvals"


def features(rows: int, width: int, seed: int) -> np.ndarray:
    """Features like a network's: correlated, non-negative, float32."""
    latent = max(1, width // 4)
    directions = np.random.default_rng(0).normal(size=(latent, width))
    directions *= np.exp(-np.arange(latent) / (latent / 8))[:, None]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, latent)) @ directions + 0.05 * rng.normal(size=(rows, width))
    return np.maximum(x + 0.1 * seed, 0).astype(np.float32)


def by_sqrtm(first: Moments, second: Moments) -> float:
    return float(np.trace(scipy.linalg.sqrtm(first.covariance @ second.covariance)).real)


def by_eigvals(first: Moments, second: Moments) -> float:
    values = np.linalg.eigvals(first.covariance @ second.covariance)
    return float(np.sqrt(np.clip(values.real, 0, None)).sum())


def compare(first: Moments, second: Moments, repeats: int) -> dict[str, dict[str, float]]:
    ways: dict[str, Callable[[Moments, Moments], float]] = {
        OURS: trace_of_root,
        EIGVALS: by_eigvals,
        SQRTM: by_sqrtm,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            begun = time.perf_counter()
            values[name] = way(first, second)
            seconds[name].append(time.perf_counter() - begun)
    ours = statistics.median(seconds[OURS])
    return {
        name: {
            "seconds": statistics.median(times),
            "times_ours": statistics.median(times) / ours,
            "value": values[name],
            "relative_difference": abs(values[name] - values[OURS]) / abs(values[OURS]),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--few-rows", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    result: dict[str, object] = {
        "benchmark": "frechet",
        "width": arguments.width,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
        "cases": {},
    }
    for rows in (arguments.rows, arguments.few_rows):
        pair = [Moments.of(features(rows, arguments.width, seed)) for seed in (1, 2)]
        found = compare(pair[0], pair[1], arguments.repeats)
        result["cases"][f"{rows} rows"] = found  # type: ignore[index]
        for name, line in found.items():
            print(
                f"{rows} x {arguments.width}  {name:22s} {line['seconds']:8.3f} s"
                f"  {line['times_ours']:6.1f} x ours"
                f"  differs by {line['relative_difference']:.1e}"
            )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()

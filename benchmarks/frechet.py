"""The Fréchet distance: ours, torch-fidelity's (NumPy's eigenvalues), and by SciPy's matrix root.

Two sets of 6,000 × 2,048 non-negative features (512 latent directions with exponential decay,
and noise), and the same with 1,000 rows, whose covariances have lower rank. From moments to the
distance, in one process; the ways take turns, and the figure is the least CPU time. The trace term
of all must agree: to 1e-8 where the covariances have full rank; with fewer rows only ours is exact.

    OMP_NUM_THREADS=1 python -m benchmarks.frechet --output benchmarks/results/frechet.json
    python -m benchmarks.frechet --width 256 --rows 1000 --few-rows 100    # seconds
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from benchmarks.support.rounds import OURS, ratios, report, take_turns, versions
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.moments import Moments

FIDELITY, SQRTM = "torch-fidelity", "scipy.linalg.sqrtm"


def features(rows: int, width: int, seed: int) -> np.ndarray:
    """Features like a network's: correlated, non-negative, float32."""
    latent = max(1, width // 4)
    directions = np.random.default_rng(0).normal(size=(latent, width))
    directions *= np.exp(-np.arange(latent) / (latent / 8))[:, None]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, latent)) @ directions + 0.05 * rng.normal(size=(rows, width))
    return np.maximum(x + 0.1 * seed, 0).astype(np.float32)


def by_fidelity(first: Moments, second: Moments) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    pair = [{"mu": one.mean, "sigma": one.covariance} for one in (first, second)]
    return float(fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID])


def by_sqrtm(first: Moments, second: Moments) -> float:
    difference = first.mean - second.mean
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(difference @ difference + traces - 2 * np.trace(root).real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--few-rows", type=int, default=1000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    seconds, differences, found = {}, {}, {}
    for rows in (arguments.rows, arguments.few_rows):
        first, second = (Moments.of(features(rows, arguments.width, seed)) for seed in (1, 2))
        ways = {OURS: frechet_distance, FIDELITY: by_fidelity, SQRTM: by_sqrtm}
        values: dict[str, float] = {}

        def call(name: str) -> None:
            values[name] = ways[name](first, second)  # noqa: B023 - called at once

        case = f"{rows} rows"
        turns = {name: lambda name=name: call(name) for name in ways}
        seconds[case] = take_turns(turns, arguments.rounds)
        scale = np.trace(first.covariance) + np.trace(second.covariance)
        differences[case] = {n: abs(v - values[OURS]) / scale for n, v in values.items()}
        if rows > arguments.width:
            assert max(differences[case].values()) < 1e-8, differences
        found[case] = ratios(seconds[case])
    report(
        "frechet",
        arguments.output,
        {
            "width": arguments.width,
            "rounds": arguments.rounds,
            "threads": torch.get_num_threads(),
            "versions": versions("numpy", "scipy", "torch-fidelity"),
            "seconds": seconds,
            "differences_by_the_sum_of_variances": differences,
            "ratios": found,
        },
    )


if __name__ == "__main__":
    main()

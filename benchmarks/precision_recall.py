"""Precision and recall: blocks against torch-fidelity's whole matrices, in time and memory.

Ours gives density and coverage in the same pass. Each way runs in a process of its own, which tells
its peak memory; the ways take turns, and the figure is the least CPU time. Both must find the same
precision and recall.

    OMP_NUM_THREADS=1 python benchmarks/precision_recall.py \
        --output benchmarks/results/precision_recall.json
    python benchmarks/precision_recall.py --rows 500 --width 64 --rounds 1    # seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

OURS, THEIRS = "epg", "torch-fidelity"


def features(rows: int, width: int, seed: int) -> torch.Tensor:
    """Features like a network's: correlated, non-negative, float32."""
    latent = max(1, width // 4)
    directions = np.random.default_rng(0).normal(size=(latent, width))
    directions *= np.exp(-np.arange(latent) / (latent / 8))[:, None]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, latent)) @ directions + 0.05 * rng.normal(size=(rows, width))
    return torch.from_numpy(np.maximum(x + 0.1 * seed, 0).astype(np.float32))


def one_way(name: str, rows: int, width: int) -> dict[str, Any]:
    """Measure once, in this process."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    from epg.evaluation.metrics.manifold import compare_manifolds

    torch.set_num_threads(1)
    reference, samples = features(rows, width, 1), features(rows, width, 2)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the features
    before = memory("VmRSS")
    begun = time.process_time()
    if name == OURS:
        found = compare_manifolds(reference, samples, 3)
        values = [found.precision, found.recall]
    else:
        told = prc_features_to_metric(samples, reference, prc_neighborhood=3, verbose=False)
        values = [told["precision"], told["recall"]]
    spent = time.process_time() - begun
    return {"seconds": spent, "peak_mib": memory("VmHWM") - before, "values": values}


def memory(name: str) -> float:
    """MiB of this process, as Linux tells them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_way(arguments.one, arguments.rows, arguments.width)))
        return
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], THEIRS: []}
    for _ in range(arguments.rounds):
        for name, found in runs.items():
            command = [sys.executable, __file__, "--one", name]
            command += ["--rows", str(arguments.rows), "--width", str(arguments.width)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(said.splitlines()[-1]))
    values = [found[0]["values"] for found in runs.values()]
    assert np.allclose(values[0], values[1], atol=2 / arguments.rows), values
    least = {name: min(run["seconds"] for run in found) for name, found in runs.items()}
    peak = {name: min(run["peak_mib"] for run in found) for name, found in runs.items()}
    result = {
        "benchmark": "precision_recall",
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__},
        "threads": 1,
        "rows": arguments.rows,
        "width": arguments.width,
        "rounds": arguments.rounds,
        "values": dict(zip(runs, values, strict=True)),
        "cpu_seconds": least,
        "peak_mib_above_the_features": peak,
        "ratios": {"cpu": least[THEIRS] / least[OURS], "peak_memory": peak[THEIRS] / peak[OURS]},
    }
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.2f} x {THEIRS}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

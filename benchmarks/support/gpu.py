"""What the benchmarks of training and sampling share: the card, its limit, interleaved windows."""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from epg.model.device import prepare_device


def parser(doc: str) -> argparse.ArgumentParser:
    """Return the arguments that all of them take."""
    found = argparse.ArgumentParser(description=doc.partition("\n")[0])
    found.add_argument("--output", type=Path)
    found.add_argument("--rounds", type=int, default=3)
    found.add_argument("--small", action="store_true", help="a tiny model: does it run at all?")
    return found


def about(device: torch.device) -> dict[str, Any]:
    """Return what a reader must know of the machine."""
    cuda = device.type == "cuda"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of some work, to its end on the device."""
    synchronize(device)
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def matrix_product(device: torch.device, side: int = 8192) -> float:
    """TFLOP/s of a square matrix product in bfloat16 on random numbers, the best of three runs."""
    if device.type != "cuda":
        side = 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    count = 10

    def run() -> None:
        for _ in range(count):
            torch.mm(a, b)

    run()
    return 2 * side**3 * count / min(seconds(run, device) for _ in range(3)) / 1e12


def peak_gib(device: torch.device) -> float | None:
    """Most memory that tensors took since the last call, in GiB."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 2)


def compare(
    cases: Iterable[str],
    measure: Callable[[str], dict[str, Any]],
    peer: str,
    product: float,
    arguments: argparse.Namespace,
) -> None:
    """Measure one case after the other, print, and write.

    Args:
        cases: what there is to measure, each beside the peer.
        measure: case -> its row, with `images_per_second` and `plain_images_per_second`.
        peer: what ours is held against, in words.
        product: TFLOP/s of a matrix product of this run.
        arguments: as of `parser`.
    """
    device = prepare_device()
    result: dict[str, Any] = {**about(device), "matrix_product_tflops": product}
    result["rows"], result["ratios"] = [], {}
    for case in cases:
        row = measure(case)
        result["rows"].append(row)
        ratio = row["images_per_second"] / row["plain_images_per_second"]
        result["ratios"][f"{case} against {peer}"] = ratio
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    _finish(result, arguments.output)


def _finish(result: dict[str, Any], output: Path | None) -> None:
    """Print the rows and the ratios, and write all of it."""
    for row in result["rows"]:
        print("  ".join(f"{k} {_shown(v)}" for k, v in row.items() if not isinstance(v, list)))
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.2f} x")
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

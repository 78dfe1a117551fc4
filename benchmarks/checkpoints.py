"""How long training stands still for a checkpoint in an object store: at once, and on its way.

A state of 100 MiB is saved while steps are made (matrix products, for some seconds between two
saves). `directly`: the next step waits until the store has all of it, as with a store of local
files. `epg`: it waits for the local disk, and a thread brings the checkpoint to the store
(`epg.training.delivery`). Both take turns; what is restored equals what was saved, to the bit.
Counted are the seconds inside of a save, the wait at the end, and how much longer steps take while
a checkpoint is on its way. The server is another process; on one machine all share the cores.

    export EPG_S3_ACCESS_KEY=... EPG_S3_SECRET_KEY=...
    PYTHONPATH=. python benchmarks/checkpoints.py --store minio://localhost:9000/BUCKET
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.rounds import OURS, report, versions
from epg.store import Store, open_store
from epg.store.local import LocalStore
from epg.store.scratch import scratch_folder
from epg.training.checkpoints import Checkpoints
from epg.training.delivery import Delivery
from epg.training.keeper import Keeper

PEER = "directly"
_TENSOR = 1 << 20  # numbers


def steps_for(seconds: float, factor: torch.Tensor) -> list[float]:
    """Make steps for a while; return how long each took."""
    took, end = [], time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        torch.mm(factor, factor)
        took.append(time.perf_counter() - begun)
    return took


def trained(
    keeper: Keeper, state: dict[str, torch.Tensor], saves: int, pause: float
) -> dict[str, Any]:
    """Train with some saves; return what they cost."""
    factor = torch.randn(512, 512)
    alone = statistics.median(steps_for(pause, factor))
    stalls: list[float] = []
    beside: list[float] = []
    with keeper:
        for step in range(1, saves + 1):
            next(iter(state.values()))[0] = step
            begun = time.perf_counter()
            keeper.save(step, state, [{"step": step}])
            stalls.append(time.perf_counter() - begun)
            beside += steps_for(pause, factor)
        begun = time.perf_counter()
        keeper.settle()
        end = time.perf_counter() - begun
    return {"stalls": stalls, "end": end, "step_beside": statistics.fmean(beside) / alone}


def keepers(store: Store, scratch: Path) -> dict[str, Callable[[], Keeper]]:
    """Return the ways to keep a checkpoint, each in a place of its own."""

    def kept(way: str) -> Checkpoints:
        return Checkpoints(store.sub(f"benchmark-checkpoints/{way}"), {}, {}, scratch)

    return {OURS: lambda: Delivery(kept(OURS)), PEER: lambda: kept(PEER)}


def check(keeper: Keeper, state: dict[str, torch.Tensor], saves: int) -> None:
    """Make sure that the last checkpoint is what was saved."""
    into = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    found = keeper.restore(lambda: into)
    assert found is not None
    assert found.step == saves
    assert all(torch.equal(into[name], tensor) for name, tensor in state.items())


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="", help="minio://HOST:PORT/BUCKET")
    parser.add_argument("--mebibytes", type=int, default=100)
    parser.add_argument("--saves", type=int, default=4, help="in each round")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds of steps between saves")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if not given.store:
        print("no --store: nothing is measured")
        return
    store = open_store(given.store)
    assert not isinstance(store, LocalStore), "an object store is what is measured"
    count = (given.mebibytes << 20) // (4 * _TENSOR)
    state = {f"w{number}": torch.randn(_TENSOR) for number in range(count)}
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], PEER: []}
    with scratch_folder("benchmark") as scratch:
        for _ in range(given.rounds):
            for way, make in keepers(store, scratch).items():
                runs[way].append(trained(make(), state, given.saves, given.pause))
                check(make(), state, given.saves)
                store.clear(f"benchmark-checkpoints/{way}")
    rows = {
        way: {
            "stall_seconds": statistics.median(s for run in of for s in run["stalls"]),
            "stall_seconds_most": max(s for run in of for s in run["stalls"]),
            "end_seconds": statistics.median(run["end"] for run in of),
            "step_time_beside": statistics.median(run["step_beside"] for run in of),
        }
        for way, of in runs.items()
    }
    for way, row in rows.items():
        print(f"{way:10}" + "".join(f"  {name} {value:.3f}" for name, value in row.items()))
    ratio = rows[PEER]["stall_seconds"] / rows[OURS]["stall_seconds"]
    report(
        "checkpoints",
        given.output,
        {
            "bytes": sum(tensor.nbytes for tensor in state.values()),
            "saves": given.saves,
            "rounds": given.rounds,
            "pause_seconds": given.pause,
            "versions": versions("torch", "minio", "safetensors"),
            "rows": rows,
            "ratios": {"stall": {PEER: ratio}},
        },
    )


if __name__ == "__main__":
    main()

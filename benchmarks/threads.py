"""How OpenMP's threads should wait: a training step under each policy, quiet and busy.

Two threads train the digits' consistency model for a few steps in a fresh process per policy,
interleaved round by round: `ours` (what `epg` sets), `default` (nothing set) and `passive` (no
spinning at all). Then the same beside two processes that want both cores.

    python benchmarks/threads.py [--output FILE] [--rounds 3] [--steps 20]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

POLICIES: dict[str, dict[str, str | None]] = {
    "ours": {},
    "default": {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None},
    "passive": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
}
_WORK = """
import os, sys, json, time
policy = json.loads(sys.argv[1])
import epg
for name, value in policy.items():
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
import torch
from epg.config.loading import load_recipe
from epg.training.finetuning import Consistency
from epg.training.pretraining import Pretraining
torch.set_num_threads(2)
recipe, cpu = load_recipe("digits"), torch.device("cpu")
stage1 = Pretraining(recipe, cpu)
stage2 = Consistency(recipe, stage1.encoder.state_dict(), stage1.projector.state_dict(), cpu)
images = torch.randint(0, 256, (64, 8, 8, 1), dtype=torch.uint8)
labels = torch.arange(64) % 10
times = []
for step in range(int(sys.argv[2]) + 2):
    begun = time.perf_counter()
    sum(stage2.losses(images, labels, step).terms.values()).backward()
    times.append(time.perf_counter() - begun)
print(sum(times[2:]) / len(times[2:]))
"""


def seconds_per_step(policy: dict[str, str | None], steps: int) -> float:
    """Mean seconds of a forward and backward pass in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k not in POLICIES["default"]}
    command = [sys.executable, "-c", _WORK, json.dumps(policy), str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(busy: int, rounds: int, steps: int) -> dict[str, float]:
    """Least seconds per step of every policy, beside `busy` processes that never rest."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        found: dict[str, list[float]] = {name: [] for name in POLICIES}
        for _ in range(rounds):
            for name, policy in POLICIES.items():
                found[name].append(seconds_per_step(policy, steps))
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    return {name: min(values) for name, values in found.items()}


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    result: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
    }
    for label, busy, steps in (("quiet", 0, arguments.steps), ("busy", 2, 5)):
        seconds = measure(busy, arguments.rounds, steps)
        ratios = {name: value / seconds["ours"] for name, value in seconds.items()}
        result[label] = {"seconds_per_step": seconds, "times_ours": ratios}
        for name, value in seconds.items():
            print(f"{label:5}  {name:8} {value * 1e3:9.1f} ms a step   {ratios[name]:6.2f} x ours")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

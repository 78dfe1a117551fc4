"""SIGKILL inside of saves, a hundred times: is anything torn taken for whole, is a bit lost?

The pre-training of the smoke recipe, a real stage in a process of its own, saves a checkpoint as
often as it can. It is killed at a random moment after a save has begun (its folder is seen and its
manifest is not, or it is the next step that is met), and started again, until it has been killed
often enough; then it may end. Its weights, projector and series must be those of a training that
nobody killed. After every kill each checkpoint is read to the last byte: what has a manifest is
whole. With `--store` it trains on an object store, where checkpoints arrive in the background; the
row of either place is kept where the other one is measured.

    python -m benchmarks.kills --output benchmarks/results/kills.json
    python -m benchmarks.kills --output benchmarks/results/kills.json --store minio://HOST:PORT/BUCKET
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.rounds import report, versions
from epg.runs.record import load_record
from epg.runs.run import Run
from epg.stages.pretrain import pretrain
from epg.stages.shard import shard
from epg.store import Store
from epg.training.checkpoint_format import FOLDER, MANIFEST
from epg.training.kept import kept_checkpoints

SETTINGS: dict[str, Any] = {"pretrain.checkpoint_every_seconds": 1e-3}
_FORK = multiprocessing.get_context("fork")  # a start costs no imports
_PATIENCE = 300.0  # seconds for a save to begin


@dataclass
class Counts:
    """What the kills met."""

    kills: int = 0
    inside_a_save: int = 0  # a torn folder was left
    starts_from_a_checkpoint: int = 0
    damaged: int = 0  # checkpoints with a manifest that do not verify: never
    all_lost: int = 0  # kills after which no whole checkpoint was left, though one had been: never


def work(stage: Callable[[Run], Any], run: Run, errors: Path) -> None:
    """Do a stage in a child, whose stderr goes to a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - it lasts as long as the process
    stage(run)


def started(
    run: Run, errors: Path, stage: Callable[[Run], Any] = pretrain
) -> multiprocessing.process.BaseProcess:
    process = _FORK.Process(target=work, args=(stage, run, errors))
    process.start()
    return process


def folders(store: Store) -> dict[str, bool]:
    """Folder -> whether its manifest is there."""
    found: dict[str, bool] = {}
    for info in store.list():
        if match := FOLDER.match(info.key):
            whole = info.key == f"{match[1]}/{MANIFEST}"
            found[match[1]] = found.get(match[1], False) or whole
    return found


def kill_in_a_save(run: Run, chance: random.Random, counts: Counts, errors: Path) -> bool:
    """Start the stage and kill it; False where it came to its end before."""
    place = run.store.sub("pretrain/checkpoints")
    before = folders(place)
    counts.starts_from_a_checkpoint += any(before.values())
    process = started(run, errors)
    seen, wanted, end = set(before), chance.randint(1, 3), time.monotonic() + _PATIENCE
    while process.is_alive() and wanted:
        new = set(folders(place)) - seen
        wanted = max(wanted - len(new), 0)
        seen |= new
        time.sleep(0.002)
        if time.monotonic() > end:
            raise SystemExit(f"no save begins: {errors.read_text()}")
    time.sleep(chance.uniform(0.0, 0.02))
    if not process.is_alive():
        process.join()
        assert process.exitcode == 0, errors.read_text()
        return False
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    counts.kills += 1
    counts.inside_a_save += not all(folders(place).values())
    looked = kept_checkpoints(place, verify=True)
    counts.damaged += sum(bool(kept.fault) and not kept.torn for kept in looked)
    if any(before.values()) and all(kept.fault for kept in looked):
        counts.all_lost += 1
    return True


def finished(run: Run, errors: Path) -> dict[str, str]:
    """Let the stage come to its end; return the digests of what it made."""
    process = started(run, errors)
    process.join()
    assert process.exitcode == 0, errors.read_text()
    record = load_record(run, "pretrain")
    assert record is not None
    return {name: entry["sha256"] for name, entry in record.outputs.items()}


def opened(store: str, name: str, steps: int, errors: Path) -> Run:
    """Open a run with its shards."""
    run = Run.open("smoke", {**SETTINGS, "pretrain.steps": steps}, store, name)
    process = started(run, errors, shard)
    process.join()
    assert process.exitcode == 0, errors.read_text()
    return run


def measure(store: str, kills: int, steps: int, seed: int, errors: Path) -> dict[str, Any]:
    """Kill runs until there were enough kills; all must end as the one that was not killed."""
    begun = time.perf_counter()
    expected = finished(opened(store, "whole", steps, errors), errors)
    chance, counts, runs, equal, left = random.Random(seed), Counts(), 0, 0, 0
    while counts.kills < kills:
        run = opened(store, f"killed-{runs}", steps, errors)
        runs += 1
        while counts.kills < kills and kill_in_a_save(run, chance, counts, errors):
            sys.stdout.write(f"\r{counts.kills} kills, {counts.inside_a_save} inside a save")
            sys.stdout.flush()
        equal += finished(run, errors) == expected
        left += sum(1 for _ in run.store.list("pretrain/checkpoints/"))
    sys.stdout.write("\n")
    row = {**asdict(counts), "runs": runs, "runs_equal_to_the_bit": equal, "objects_left": left}
    print(json.dumps(row))
    assert equal == runs, "killed runs end otherwise"
    assert not counts.damaged + counts.all_lost + left
    return {**row, "steps": steps, "seconds": time.perf_counter() - begun}


def rows_in(output: Path | None) -> dict[str, Any]:
    """Return the rows that are there already: each place is measured by a call of its own."""
    if output is None or not output.exists():
        return {}
    rows: dict[str, Any] = json.loads(output.read_text())["rows"]
    return rows


def main() -> None:
    """Kill, compare, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="", help="train there, and not on local files")
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--steps", type=int, default=150, help="of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    os.environ |= {"EPG_METRICS_PORT": "off"}
    rows = rows_in(given.output)
    with tempfile.TemporaryDirectory(prefix="epg-kills-") as folder:
        os.environ["EPG_SCRATCH"] = folder
        name = "object store" if given.store else "local files"
        place = f"{given.store}/kills-{os.getpid()}" if given.store else f"{folder}/runs"
        rows[name] = measure(place, given.kills, given.steps, given.seed, Path(folder, "errors"))
    report(
        "kills", given.output, {"versions": versions("torch", "minio"), "rows": rows, "ratios": {}}
    )


if __name__ == "__main__":
    main()

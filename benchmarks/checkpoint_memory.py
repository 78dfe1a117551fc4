"""How much memory a checkpoint of a large model takes beside the model, saved and restored.

A state of the size that is asked for lies on the CPU, in tensors of 64 MiB. Counted is what the
process has to itself (unique set size, every 20 ms) beyond what it had just before; what is
restored equals what was saved. On a GPU a file's tensors (256 MiB, or one that is larger) come to
the host besides. There is no peer: the state itself is what it is held against.

    PYTHONPATH=. python benchmarks/checkpoint_memory.py --mebibytes 9216 --folder /a/disk
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil
import torch

from benchmarks.support.rounds import report, versions
from epg.store import open_store
from epg.training.checkpoints import Checkpoints

_TENSOR = 16 << 20  # numbers of four bytes


class Peak:
    """Context manager: the most memory that the process has to itself, beyond that at the start."""

    def __enter__(self) -> Peak:
        """Begin to look."""
        self._ended = threading.Event()
        self._begun = time.perf_counter()
        self._first = self._most = self._now()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note what was found."""
        self._ended.set()
        self._thread.join()
        self.seconds = time.perf_counter() - self._begun
        self.bytes = self._most - self._first

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, self._now())

    @staticmethod
    def _now() -> int:
        return int(psutil.Process().memory_full_info().uss)


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="with room for the checkpoint")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    names = [f"w{number}" for number in range(given.mebibytes // 64)]
    state = {name: torch.full((_TENSOR,), float(n)) for n, name in enumerate(names)}
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        (folder / "scratch").mkdir()

        def checkpoints() -> Checkpoints:
            return Checkpoints(open_store(str(folder / "store")), {}, {}, folder / "scratch")

        with Peak() as saving:
            checkpoints().save(1, state, [{"step": 1}])
        for tensor in state.values():
            tensor.zero_()
        with Peak() as restoring:
            assert checkpoints().restore(lambda: state) is not None
        assert all(bool((state[name] == n).all()) for n, name in enumerate(names))
    finally:
        shutil.rmtree(folder)
    rows = {
        way: {"beyond_the_state_bytes": peak.bytes, "seconds": peak.seconds}
        for way, peak in (("save", saving), ("restore", restoring))
    }
    for way, row in rows.items():
        beyond = row["beyond_the_state_bytes"] / 2**20
        print(f"{way:8}  {beyond:.0f} MiB beyond the state, {row['seconds']:.0f} s")
    size = sum(tensor.nbytes for tensor in state.values())
    report(
        "checkpoint_memory",
        given.output,
        {"bytes": size, "rows": rows, "versions": versions("torch", "safetensors"), "ratios": {}},
    )


if __name__ == "__main__":
    main()

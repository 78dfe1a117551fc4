"""`python stuck_delivery.py STORE`: a checkpoint that is on its way for ever."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import torch

from epg.store.local import LocalStore
from epg.store.scratch import scratch_folder
from epg.training.checkpoints import Checkpoints
from epg.training.delivery import Delivery


class Stuck(LocalStore):
    """Takes one file, says so, and no more."""

    taken = 0

    def put_file(self, key: str, path: Path) -> None:
        if self.taken:
            sys.stdout.write("stuck\n")
            sys.stdout.flush()
            threading.Event().wait()
        self.taken += 1
        super().put_file(key, path)


def main() -> None:
    with scratch_folder("toy") as scratch:
        kept = Checkpoints(Stuck(Path(sys.argv[1])), {"a": 1}, {}, scratch, file_bytes=16)
        with Delivery(kept) as keeper:
            keeper.save(2, {"w": torch.zeros(3), "v": torch.zeros(2, 2)}, [])


if __name__ == "__main__":
    main()

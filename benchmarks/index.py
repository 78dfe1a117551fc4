"""Finding every image of a tar of tars: ours and Python's `tarfile`, time and memory.

An archive in the layout of ImageNet's training set is made with tiny members (its headers are what
counts here), and gone through in a fresh process for each, in turns. Both find the same members.

    python benchmarks/index.py [--output FILE] [--members 100000] [--rounds 3]

`--members 1281167` is the whole of ImageNet; `tarfile` then needs several GB.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from epg.data.sources.imagenet_classes import lemmas

_OURS = """
import hashlib, json, resource, sys, time
from pathlib import Path
import numpy as np
from epg.data.sources.cursor import Cursor
from epg.data.sources.imagenet import index_train
from epg.data.sources.index import ItemTable
from epg.data.sources.volumes import LocalVolume
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
index = index_train(Cursor(LocalVolume(Path(sys.argv[1]), "train"), through=False))
items = ItemTable(np.zeros(len(index), bool), index.codes, len(index.labels), index.names)
seconds = time.perf_counter() - begun
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
digest = hashlib.sha256(index.offsets.tobytes() + index.lengths.tobytes()).hexdigest()
names = hashlib.sha256("".join(f"{name}\\n" for name in index.names).encode()).hexdigest()
print(json.dumps([seconds, (after - before) / 1024, len(items), digest, names]))
"""
_TARFILE = """
import hashlib, json, resource, sys, tarfile, time
import numpy as np
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
found = []
with tarfile.open(sys.argv[1], "r:") as outer:
    for member in outer:
        synset = member.name.removesuffix(".tar")
        with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
            base = member.offset_data
            found += [(f"{synset}/{m.name}", base + m.offset_data, m.size) for m in inner]
seconds = time.perf_counter() - begun
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
offsets, lengths = (np.asarray([f[i] for f in found], np.int64) for i in (1, 2))
digest = hashlib.sha256(offsets.tobytes() + lengths.tobytes()).hexdigest()
names = hashlib.sha256("".join(f"{f[0]}\\n" for f in found).encode()).hexdigest()
print(json.dumps([seconds, (after - before) / 1024, len(found), digest, names]))
"""
PROGRAMS = {"ours": _OURS, "tarfile": _TARFILE}


def make_archive(path: Path, members: int) -> None:
    """Write a tar of 1,000 tars with so many members of one byte in all."""
    synsets = list(lemmas())
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as outer:
        for label, synset in enumerate(synsets):
            inner = io.BytesIO()
            for number in range(members * label // 1000, members * (label + 1) // 1000):
                info = tarfile.TarInfo(f"{synset}_{number}.JPEG")
                info.size = 1
                inner.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(512))
            inner.write(bytes(1024))
            info = tarfile.TarInfo(f"{synset}.tar")
            info.size = inner.tell()
            outer.addfile(info, io.BytesIO(inner.getvalue()))


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in PROGRAMS}
    same = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.tar")
        make_archive(path, given.members)
        for _ in range(given.rounds):
            for name, program in PROGRAMS.items():
                command = [sys.executable, "-c", program, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seconds, mebibytes, *what = json.loads(done.stdout)
                found[name].append([seconds, mebibytes])
                same.add(tuple(what))
    assert len(same) == 1, "the two have found different members"
    rows = {
        name: {"seconds": min(r[0] for r in rows), "MiB": max(r[1] for r in rows)}
        for name, rows in found.items()
    }
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "members": given.members,
        "rows": rows,
        "ratios": {
            f"index {what} vs tarfile": rows["tarfile"][what] / rows["ours"][what]
            for what in ("seconds", "MiB")
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

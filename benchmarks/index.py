"""Finding every image of ImageNet's tars: time and memory, beside Python's `tarfile`.

The tars are made in ImageNet's layout with tiny members (headers are what counts here).

- `rows`: the training tar is gone through in a fresh process for us and for `tarfile`, in turns;
  both find the same members.
- `opening`: what `epg shard` does before the first image: the digests (`cold`, which notes where
  the images are), the source opened by that note (`noted`, as each later process does) or by the
  headers alone (`headers`), and the plan of all shards.

    PYTHONPATH=. python benchmarks/index.py [--output FILE] [--members 100000] [--rounds 3]

`--members 1281167` is as many as ImageNet has, 1.4 GB here.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support.rounds import OURS, ratios, report
from epg.data.sources.imagenet import COUNTS, TRAIN, VAL
from epg.data.sources.imagenet_classes import lemmas

# Not `ru_maxrss`: a process inherits the peak of the one that has started it.
_PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
"""
_OURS = """
import hashlib, json, sys, time
from pathlib import Path
import numpy as np
from epg.data.sources.cursor import Cursor
from benchmarks.support.rounds import OURS, ratios, report
from epg.data.sources.imagenet import index_train
from epg.data.sources.index import ItemTable
from epg.data.sources.volumes import LocalVolume
before = peak()
begun = time.process_time()
index = index_train(Cursor(LocalVolume(Path(sys.argv[1]), "train"), through=False))
items = ItemTable(np.zeros(len(index), bool), index.codes, len(index.labels), index.names)
seconds = time.process_time() - begun
after = peak()
digest = hashlib.sha256(index.offsets.tobytes() + index.lengths.tobytes()).hexdigest()
names = hashlib.sha256("".join(f"{name}\\n" for name in index.names).encode()).hexdigest()
print(json.dumps([seconds, (after - before) / 1024, len(items), digest, names]))
"""
_TARFILE = """
import hashlib, json, sys, tarfile, time
import numpy as np
before = peak()
begun = time.process_time()
found = []
with tarfile.open(sys.argv[1], "r:") as outer:
    for member in outer:
        synset = member.name.removesuffix(".tar")
        with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
            base = member.offset_data
            found += [(f"{synset}/{m.name}", base + m.offset_data, m.size) for m in inner]
seconds = time.process_time() - begun
after = peak()
offsets, lengths = (np.asarray([f[i] for f in found], np.int64) for i in (1, 2))
digest = hashlib.sha256(offsets.tobytes() + lengths.tobytes()).hexdigest()
names = hashlib.sha256("".join(f"{f[0]}\\n" for f in found).encode()).hexdigest()
print(json.dumps([seconds, (after - before) / 1024, len(found), digest, names]))
"""
PROGRAMS = {OURS: _OURS, "tarfile": _TARFILE}
_OPENING = """
import hashlib, json, sys, time
from pathlib import Path
from epg.config.data import DataConfig
from epg.data.shard_plan import plan_shards
from epg.data.sources import Contents, open_source, source_contents
spec, way, note, encoding = f"imagenet:{sys.argv[1]}", *sys.argv[2:]
config = DataConfig(source=spec, image_size=64, channels=3, encoding=encoding)
before = peak()
seconds, begun, contents = {}, time.process_time(), None
def lap(name):
    global begun
    seconds[name], begun = time.process_time() - begun, time.process_time()
if way == "cold":
    contents = source_contents(spec)
    lap("digests and index")
    Path(note).write_bytes(contents.to_bytes())
    lap("note")
if way == "noted":
    contents = Contents.from_bytes(Path(note).read_bytes())
    lap("note")
    contents = source_contents(spec, [contents])
    lap("digests and index")
source = open_source(spec, config, 0, contents)
lap("open")
shards = plan_shards(source, config, 0)
lap("plan")
first = shards[0].items(source)[:1000]
digest = hashlib.sha256(json.dumps([s.positions.tolist() for s in shards] + first).encode())
print(json.dumps([seconds, (peak() - before) / 1024, len(source.items), digest.hexdigest()]))
"""


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


def make_layout(folder: Path, members: int) -> None:
    """Write both tars, the ground truth as text, and how many there are."""
    make_archive(folder / TRAIN, members)
    synsets, count = list(lemmas()), members // 25
    with tarfile.open(folder / VAL, "w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(1, count + 1):
            info = tarfile.TarInfo(f"ILSVRC2012_val_{number:08d}.JPEG")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"\0"))
    truth = "".join(f"{synsets[number * 7 % 1000]}\n" for number in range(count))
    (folder / "val_synsets.txt").write_text(truth, encoding="ascii")
    counts = {"classes": 1000, "train": members, "val": count}
    (folder / COUNTS).write_text(json.dumps(counts), encoding="ascii")


def opening(folder: Path) -> dict[str, dict[str, float]]:
    """Return CPU seconds of each step and the growth of memory, a process for each way."""
    rows: dict[str, dict[str, float]] = {}
    note = folder / "note"
    for encoding in ("raw", "passthrough"):
        plans = set()
        for way in ("cold", "noted", "headers"):
            done = run(_OPENING, str(folder), way, str(note), encoding)
            seconds, mebibytes, count, digest = done
            rows[f"{way}, {encoding}"] = {**seconds, "MiB": mebibytes, "images": count}
            plans.add(digest)
        assert len(plans) == 1, "another plan"
    return {**rows, "note": {"bytes": note.stat().st_size}}


def run(program: str, *words: str) -> list[Any]:
    """Run a program in a fresh process; return what it prints."""
    command = [sys.executable, "-c", _PEAK + program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


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
        make_layout(Path(folder), given.members)
        opened = opening(Path(folder))
        for _ in range(given.rounds):
            for name, program in PROGRAMS.items():
                seconds, mebibytes, *what = run(program, str(Path(folder, TRAIN)))
                found[name].append([seconds, mebibytes])
                same.add(tuple(what))
    assert len(same) == 1, "the two have found different members"
    rows = {
        name: {"cpu": min(r[0] for r in rows), "MiB": max(r[1] for r in rows)}
        for name, rows in found.items()
    }
    content = {
        "members": given.members,
        "rows": rows,
        "opening": opened,
        "ratios": {"index, time": ratios(rows), "index, memory": ratios(rows, "MiB")},
    }
    report("index", given.output, content)


if __name__ == "__main__":
    main()

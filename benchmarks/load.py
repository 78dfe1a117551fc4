"""Loading batches of uint8 256×256: our reader and its peers, per CPU second.

One process, one epoch a round, the ways in turn, the least CPU of all threads: the first round, in
which memory is made, does not count. `raw` reads the same tars of
`.npy` as webdataset; `jpeg` the same tars of `.jpg`. Our window is small, so that nothing stays in
memory from one epoch to the next; files are in the page cache of a disk (`--folder /dev/shm` for
tmpfs, whose pages take longer to read). The peers shuffle as they usually do, and check nothing;
we check each image. The PNG folder is read as training scripts do: Pillow, to float, normalised,
stacked.

    PYTHONPATH=. python benchmarks/load.py --output benchmarks/results/load.json
    PYTHONPATH=. python benchmarks/load.py --images 200 --rounds 1      # seconds

Peers are measured where they are installed (webdataset 0.2.111, mosaicml-streaming 0.13.0,
nvidia-dali-cuda130 2.4.0, whose operators for CPUs need no GPU).
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.support.pictures import jpegs
from benchmarks.support.reading import (
    BATCH,
    WINDOW,
    memory,
    shuffle_quality,
    small_reader,
    start,
    training,
)
from benchmarks.support.rounds import (
    OURS,
    peak_memory,
    ratios,
    report,
    take_turns,
    versions,
)
from epg.config.data import DataConfig
from epg.data.manifest import Manifest
from epg.data.sharding import write_shards
from epg.data.sources.base import Image as Decoded
from epg.data.sources.base import Item, Reading
from epg.data.sources.decode import load_image
from epg.store import Store, open_store

SIZE, CLASSES = 256, 10


class Crops:
    """A source of crops that are made already."""

    spec = "benchmark"
    classes = [str(label) for label in range(CLASSES)]  # noqa: RUF012 - as the protocol has it
    ignored: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, crops: list[NDArray[np.uint8]]) -> None:
        self._crops = crops
        self.items = [Item("train", n % CLASSES, n, str(n)) for n in range(len(crops))]
        self.items += [Item("held-out", n, n, str(n)) for n in range(CLASSES)]

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield them."""
        for item in items:
            yield item, Decoded(self._crops[int(item.name)])


def settings(encoding: Literal["raw", "jpeg"]) -> DataConfig:
    """Return the settings of a set of shards."""
    return DataConfig(
        source="folder:x",
        image_size=SIZE,
        channels=3,
        num_classes=CLASSES,
        mean=(0.5,),
        std=(0.5,),
        encoding=encoding,
        shard_bytes=64_000_000,
    )


class Ours:
    """Our reader, which goes on from epoch to epoch as in a training."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._reader = small_reader(store, manifest)
        self._batches = self._reader.batches(BATCH, seed=0)

    def __call__(self, counts: Counter[int]) -> None:
        """Read an epoch."""
        for _ in range(self._reader.num_samples // BATCH):
            counts.update(next(self._batches).labels.tolist())


def webdataset(paths: list[str], decode: str | None, counts: Counter[int]) -> None:
    """One epoch of webdataset with its shuffle buffer, batches of uint8."""
    import webdataset as wds

    dataset = wds.WebDataset(paths, shardshuffle=False, empty_check=False).shuffle(500)
    dataset = dataset.decode(decode) if decode else dataset.decode()
    for images, labels in dataset.to_tuple("npy" if decode is None else "jpg", "cls").batched(
        BATCH, collation_fn=_stacked
    ):
        assert images.dtype == np.uint8
        counts.update(labels)


class Dali:
    """DALI's reader of webdataset tars and its decoder for CPUs, a thread, a shuffle buffer."""

    def __init__(self, paths: list[str], images: int) -> None:
        dali = import_module("nvidia.dali")

        @dali.pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)
        def pipeline() -> tuple[Any, Any]:
            data, label = dali.fn.readers.webdataset(
                paths=paths, ext=["jpg", "cls"], random_shuffle=True, initial_fill=500
            )
            return dali.fn.decoders.image(data, device="cpu"), label

        self._batches = images // BATCH
        self._pipeline = pipeline()
        self._pipeline.build()

    def __call__(self, counts: Counter[int]) -> None:
        """Read an epoch."""
        for _ in range(self._batches):
            images, labels = self._pipeline.run()
            assert images.as_array().shape == (BATCH, SIZE, SIZE, 3)
            counts.update(int(bytes(np.asarray(label))) for label in labels)


def _stacked(samples: list[tuple[NDArray[np.uint8], int]]) -> tuple[NDArray[np.uint8], list[int]]:
    return np.stack([image for image, _ in samples]), [int(label) for _, label in samples]


def png_folder(folder: Path, counts: Counter[int]) -> None:
    """One epoch of a folder of PNG files: float32 batches, normalised."""
    paths = sorted(folder.iterdir())
    order = np.random.default_rng(0).permutation(len(paths))
    mean = std = torch.full((3, 1, 1), 0.5)
    for first in range(0, len(paths) - BATCH + 1, BATCH):
        batch = []
        for position in order[first : first + BATCH]:
            with Image.open(paths[position]) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB")))
            batch.append((pixels.permute(2, 0, 1).contiguous().float() / 255 - mean) / std)
            counts[int(paths[position].stem) % CLASSES] += 1
        torch.stack(batch)


def mds(folder: Path, counts: Counter[int]) -> None:
    """One epoch of MosaicML's shards of raw pixels."""
    from streaming import StreamingDataset  # type: ignore[import-not-found]

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    images: list[Any] = []
    for sample in dataset:
        images.append(sample["image"])
        counts[int(sample["label"])] += 1
        if len(images) == BATCH:
            np.stack(images)
            images = []


def write_mds(folder: Path, crops: list[NDArray[np.uint8]]) -> None:
    """Write raw pixels as MosaicML's shards."""
    from streaming import MDSWriter

    columns = {"image": f"ndarray:uint8:{SIZE},{SIZE},3", "label": "int"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for number, crop in enumerate(crops):
            writer.write({"image": crop, "label": number % CLASSES})


def installed(package: str) -> bool:
    """Tell whether a peer can be imported; each has many ways to be half there."""
    try:
        __import__(package)
    except Exception as error:
        print(f"{package} is not measured: {type(error).__name__}: {str(error)[:100]}")
        return False
    return True


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the sets are written")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="epg-load-", dir=given.folder) as name:
        measure(Path(name), given.images, given.rounds, given.output)


def measure(folder: Path, images: int, rounds: int, output: Path | None) -> None:
    """Write the sets, let the ways take turns, and report."""
    crops = [load_image(data, settings("raw")).pixels for data in jpegs(images)]
    store = open_store(str(folder / "store"))
    manifests: dict[str, Manifest] = {}
    paths: dict[str, list[str]] = {}
    encodings: tuple[Literal["raw", "jpeg"], ...] = ("raw", "jpeg")
    for encoding in encodings:
        config = settings(encoding)
        manifests[encoding] = write_shards(Crops(crops), config, 0, store, encoding)
        paths[encoding] = [f"{store.uri}/{s.key}" for s in manifests[encoding].shards("train")]
    (folder / "png").mkdir()
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(folder / "png" / f"{number:06d}.png", compress_level=0)
    ways: dict[str, dict[str, Callable[[Counter[int]], None]]] = {
        "raw": {
            OURS: Ours(store, manifests["raw"]),
            "PNG folder": lambda counts: png_folder(folder / "png", counts),
        },
        "jpeg": {OURS: Ours(store, manifests["jpeg"])},
    }
    if installed("webdataset"):
        ways["raw"]["webdataset"] = lambda counts: webdataset(paths["raw"], None, counts)
        ways["jpeg"]["webdataset"] = lambda counts: webdataset(paths["jpeg"], "rgb8", counts)
    if installed("nvidia.dali"):
        ways["jpeg"]["DALI, CPU"] = Dali(paths["jpeg"], manifests["jpeg"].num_samples("train"))
    if installed("streaming"):
        write_mds(folder / "mds", crops)
        ways["raw"]["MDS"] = lambda counts: mds(folder / "mds", counts)
    crops.clear()
    cases = {}
    for case, of_case in ways.items():
        counted: dict[str, Counter[int]] = {}

        def once(name: str, way: Callable[[Counter[int]], None]) -> Callable[[], None]:
            def run() -> None:
                counted[name] = Counter()  # noqa: B023 - called within this turn of the loop
                way(counted[name])  # noqa: B023

            return run

        cases[case] = take_turns({n: once(n, way) for n, way in of_case.items()}, rounds)
        assert len({tuple(sorted(counts.items())) for counts in counted.values()}) == 1, counted
        for row in cases[case].values():
            row["images_per_cpu_second"] = images / row["cpu"]
    report(
        "load",
        output,
        {
            "images": images,
            "rounds": rounds,
            "size": SIZE,
            "batch": BATCH,
            "window_bytes": WINDOW,
            "versions": versions(
                *("torch", "numpy", "pillow", "webdataset", "mosaicml-streaming"),
                "nvidia-dali-cuda130",
            ),
            "rows": cases,
            "ratios": {f"P4 {case}": ratios(rows) for case, rows in cases.items()},
            "seconds": start(store, manifests["raw"]),
            "waits": training(store, manifests["raw"]),
            "memory": memory(store, manifests["raw"], 50 * images),
            "shuffle": {**shuffle_quality(store, manifests["raw"]), "classes": CLASSES},
            "peak_memory": peak_memory(),
        },
    )


if __name__ == "__main__":
    main()

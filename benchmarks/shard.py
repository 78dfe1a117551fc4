"""Writing shards: our writer and its peers, per CPU second.

`P1`: the files as they are (`passthrough`) into tars; webdataset's writer, MosaicML's, and GNU tar
write the same files. Ours also takes the CRC-32 of each image and the SHA-256 of each shard, which
none of the peers does: `epg, undigested` leaves both out, to say what they cost. Decoding, which
`epg shard` does on the way to refuse damaged images, is no part of it.
`P2`: decode, crop to 256×256, store. The peer is a worker as the paper's authors used it: Pillow,
one PNG file of level 0 an image.

    PYTHONPATH=. python benchmarks/shard.py --output benchmarks/results/shard.json
    PYTHONPATH=. python benchmarks/shard.py --images 100 --rounds 1      # seconds
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.support.pictures import jpegs
from benchmarks.support.rounds import (
    OURS,
    peak_memory,
    ratios,
    report,
    resident_memory,
    take_turns,
    versions,
)
from epg.data import shard_file
from epg.data.encoding import StoredFormat, encode_image
from epg.data.shard_file import ShardFile
from epg.data.shard_format import read_members
from epg.data.sources.base import Image as Decoded
from epg.data.sources.base import Item
from epg.data.sources.crop import centre_crop
from epg.data.sources.decode import load_image
from epg.store import open_store

SIZE, CLASSES = 256, 10
PACKAGES = ("torch", "numpy", "pillow", "simplejpeg", "webdataset", "mosaicml-streaming")


class Stored(StoredFormat):
    """What is stored, and at which quality."""

    jpeg_quality = 95


def as_they_are(files: list[Path]) -> Iterator[tuple[Item, Decoded]]:
    """Yield files with their bytes, as a source does."""
    nothing = np.empty((0, 0, 3), np.uint8)
    for number, path in enumerate(files):
        item = Item("train", number % CLASSES, number, path.name)
        yield item, Decoded(nothing, content=path.read_bytes(), extension="jpg")


def ours_as_they_are(files: list[Path], folder: Path) -> None:
    """Write the files into one of our shards."""
    ShardFile(open_store(str(folder)), "train-000000.tar").write(as_they_are(files))


def undigested(files: list[Path], folder: Path) -> None:
    """Write the same without checksums."""

    class Nothing:
        def update(self, data: bytes) -> None:
            """Leave it."""

        def hexdigest(self) -> str:
            return "0" * 64

    def no_sum(data: bytes) -> int:
        del data
        return 0

    def no_digest(*data: bytes) -> Nothing:
        del data
        return Nothing()

    with (
        mock.patch.object(shard_file.zlib_ng, "crc32", no_sum),
        mock.patch.object(shard_file.hashlib, "sha256", no_digest),
    ):
        ours_as_they_are(files, folder)


def by_webdataset(files: list[Path], folder: Path) -> None:
    """Write them by webdataset's writer."""
    import webdataset as wds

    with wds.TarWriter(str(folder / "wds.tar")) as writer:
        for number, path in enumerate(files):
            key = f"{number % CLASSES:04d}-{number:07d}"
            writer.write({"__key__": key, "jpg": path.read_bytes(), "cls": number % CLASSES})


def by_mds(files: list[Path], folder: Path) -> None:
    """Write them by MosaicML's writer."""
    from streaming import MDSWriter  # type: ignore[import-not-found]

    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for number, path in enumerate(files):
            writer.write({"image": path.read_bytes(), "label": number % CLASSES})


def by_gnu_tar(files: list[Path], folder: Path) -> None:
    """Write them by GNU tar, without labels."""
    target, source = str(folder / "gnu.tar"), str(files[0].parent)
    command = ["tar", "--format=ustar", "-cf", target, "-C", source, "."]
    subprocess.run(command, check=True)


def cropped(crop: str, encoding: str) -> Callable[[list[Path], Path], None]:
    """Return our way from files to a shard of crops."""
    stored = Stored(SIZE, 3, crop, encoding)

    def samples(files: list[Path]) -> Iterator[tuple[Item, Decoded]]:
        for number, path in enumerate(files):
            image = encode_image(load_image(path.read_bytes(), stored), stored)
            yield Item("train", number % CLASSES, number, path.name), image

    def write(files: list[Path], folder: Path) -> None:
        ShardFile(open_store(str(folder)), f"{crop}-{encoding}.tar").write(samples(files))

    return write


def by_pillow(files: list[Path], folder: Path) -> None:
    """Crop by Pillow into one PNG file an image, without compression."""
    (folder / "png").mkdir(exist_ok=True)
    for path in files:
        with Image.open(path) as image:
            crop = centre_crop(image.convert("RGB"), SIZE)
        crop.save(folder / "png" / f"{path.stem}.png", compress_level=0)


def check(files: list[Path], folder: Path) -> None:
    """Make sure that what is compared is the same: bytes of files, and pixels of crops."""
    tar = (folder / "train-000000.tar").read_bytes()
    contents = [member.content for member in read_members(tar) if member.extension == "jpg"]
    assert contents == [path.read_bytes() for path in files]
    listed = subprocess.run(
        ["tar", "-tf", folder / "train-000000.tar"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(listed.stdout.splitlines()) == 2 * len(files)
    crops = read_members((folder / "exact-raw.tar").read_bytes())
    pixels = [np.load(io.BytesIO(bytes(m.content))) for m in crops if m.extension == "npy"]
    for path, crop in zip(files, pixels, strict=True):
        with Image.open(folder / "png" / f"{path.stem}.png") as image:
            assert np.array_equal(np.asarray(image), crop)


def growth(files: list[Path], folder: Path, images: int, shards: int) -> float:
    """Return by how much memory grows over many shards, from the second one on.

    The most that is resident while a shard is written counts, looked at every 100 images: the
    peak of the whole process may be that of something before.
    """
    nothing = np.empty((0, 0, 3), np.uint8)

    def samples(looks: list[int]) -> Iterable[tuple[Item, Decoded]]:
        for number in range(images):
            path = files[number % len(files)]
            item = Item("train", number % CLASSES, number, path.name)
            yield item, Decoded(nothing, content=path.read_bytes()[:10_000], extension="jpg")
            if number % 100 == 0:
                looks.append(resident_memory())

    most = []
    for _ in range(shards):
        looks: list[int] = []
        ShardFile(open_store(str(folder)), "growth.tar").write(samples(looks))
        (folder / "growth.tar").unlink()
        most.append(max(looks))
    return most[-1] / most[1] - 1


def main() -> None:
    """Measure, print the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are written; default: tmpfs")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    memory = Path("/dev/shm")  # noqa: S108 - a benchmark wants memory
    place = given.folder or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="epg-shard-", dir=place) as name:
        measure(Path(name), given.images, given.rounds, given.output)


def measure(folder: Path, images: int, rounds: int, output: Path | None) -> None:
    """Write the files, let the ways take turns, check, and report."""
    (folder / "files").mkdir()
    files = []
    for number, data in enumerate(jpegs(images)):
        files.append(folder / "files" / f"{number:06d}.JPEG")
        files[-1].write_bytes(data)
    ways: dict[str, dict[str, Callable[[list[Path], Path], None]]] = {
        "P1 as they are": {
            OURS: ours_as_they_are,
            "epg, undigested": undigested,
            "GNU tar": by_gnu_tar,
            "webdataset": by_webdataset,
            "MDS": by_mds,
        },
        "P2 exact, raw": {OURS: cropped("exact", "raw"), "Pillow, PNG files": by_pillow},
        "P2 fast, raw": {OURS: cropped("fast", "raw"), "Pillow, PNG files": by_pillow},
        "P2 fast, jpeg": {OURS: cropped("fast", "jpeg"), "Pillow, PNG files": by_pillow},
    }
    cases = {}
    for case, of_case in ways.items():

        def once(way: Callable[[list[Path], Path], None]) -> Callable[[], None]:
            def run() -> None:
                shutil.rmtree(folder / "mds", ignore_errors=True)
                way(files, folder)

            return run

        found = {}
        for name, way in of_case.items():
            try:
                once(way)()
            except ImportError as error:
                print(f"{name} is not measured: {error}")
            else:
                found[name] = once(way)
        cases[case] = take_turns(found, rounds)
        for row in cases[case].values():
            row["microseconds_per_image"] = row["cpu"] / images * 1e6
    ours_as_they_are(files, folder)
    check(files, folder)
    report(
        "shard",
        output,
        {
            "images": images,
            "rounds": rounds,
            "mean_file_bytes": float(np.mean([path.stat().st_size for path in files])),
            "versions": versions(*PACKAGES),
            "rows": cases,
            "ratios": {case: ratios(rows) for case, rows in cases.items()},
            "memory_growth_over_100000_images": growth(files, folder, 10_000, 10),
            "peak_memory": peak_memory(),
        },
    )


if __name__ == "__main__":
    main()

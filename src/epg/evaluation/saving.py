"""Images on their way to a disk: ADM's `.npz`, a folder of PNGs, or a grid.

Shapes: `N` images, `B` of a batch, `H W C` pixels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from epg.errors import UserError
from epg.store.files import explained, sweep_leftovers, write_atomically

FORMATS = (".npz", ".png")
_GRID_COLUMNS = 32  # images of one class in a row of the grid
_GRID_BYTES = 2_000_000_000  # of images that are held for a grid


def write_images(
    out: Path,
    batches: Iterator[NDArray[np.uint8]],
    labels: NDArray[np.int64],
    shape: tuple[int, ...],
) -> None:
    """Write a whole file or none, or a folder. Raises `UserError` for a full disk and the like.

    Batches go to disk as they come, except for a grid's.
    """
    if out.suffix not in FORMATS or out.is_dir():
        _write_folder(out, batches, labels)
        return

    def write(file: BinaryIO) -> None:
        if out.suffix == ".npz":
            write_npz(file, batches, labels, shape)
            return
        from epg.evaluation.grid import class_grid

        most = int(np.unique(labels, return_counts=True)[1].max())
        images = np.concatenate(list(batches))
        file.write(class_grid(images, labels, per_class=min(most, _GRID_COLUMNS)))

    sweep_leftovers(out.parent)
    if out.suffix == ".png" and np.prod(shape) > _GRID_BYTES:
        raise UserError(f"{out}: {shape[0]:,} images are too many for a grid: write an .npz")
    with explained(out, "write"):
        write_atomically(out, write)


def write_npz(
    file: BinaryIO,
    batches: Iterable[NDArray[np.uint8]],
    labels: NDArray[np.int64],
    shape: tuple[int, ...],
) -> None:
    """Write ADM's form, batch by batch: `arr_0` uint8 of `shape`, `arr_1` int64 labels [N]."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for images in batches:
                member.write(np.ascontiguousarray(images).data)
        with archive.open("arr_1.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, labels, version=(1, 0), allow_pickle=False)


def _write_folder(
    out: Path, batches: Iterator[NDArray[np.uint8]], labels: NDArray[np.int64]
) -> None:
    """Write `CLASS/NUMBER.png` for every image; numbers and classes are padded with zeros."""
    from PIL import Image

    done = 0
    with explained(out, "write"):
        for images in batches:
            for image in images:
                folder = out / f"{labels[done]:04d}"
                folder.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
                picture.save(folder / f"{done:06d}.png", compress_level=1)
                done += 1

"""Images that others made, as a set of which spans are read in order: an `.npz`, or a folder.

Neither is read whole: 50,000 images of 256 pixels are 10 GB.

Shapes: `N` images, `n` of a span, `H W C` pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.data.arrays import ArrayHeader, array_header, read_npy_stream
from epg.data.sources.base import BadImageError
from epg.data.sources.decode import decode_bytes, to_channels
from epg.errors import UserError, one_line
from epg.machine import available_cores
from epg.store.files import explained

IMAGES, LABELS = "arr_0", "arr_1"
_MAX_LABELS = 10**8  # bytes
_MAX_SIDE = 65_536
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)


class NpzImages:
    """Images of an `.npz` in ADM's form: `arr_0` uint8 [N, H, W, C], `arr_1` labels or none.

    Args:
        path: the file; nothing of it is unpickled.
        device: where spans go.

    Raises:
        UserError: it is no such file; the line says what it holds.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.path, self._device = path, device
        self.files, self.digest = [path], ""
        self._stream: Any = None
        self._position = 0
        try:
            with zipfile.ZipFile(path) as archive:
                members = {name.removesuffix(".npy"): name for name in archive.namelist()}
                if IMAGES not in members:
                    held = ", ".join(sorted(members)[:8]) or "nothing"
                    raise ValueError(f"it holds {held}, and no {IMAGES}")
                with archive.open(members[IMAGES]) as stream:
                    self._header = _images_header(array_header(stream))
                    left = archive.getinfo(members[IMAGES]).file_size - stream.tell()
                claimed = math.prod(self._header.shape)
                if claimed != left:
                    raise ValueError(f"{IMAGES} claims {claimed:,} bytes and has {left:,}")
                given = None
                if LABELS in members:
                    with archive.open(members[LABELS]) as stream:
                        given = read_npy_stream(stream, _MAX_LABELS)
        except _DAMAGE as error:
            raise _refused(path, error) from error
        self._member = members[IMAGES]
        count = self._header.shape[0]
        self.has_labels = given is not None
        self.labels = np.full(count, -1, np.int64) if given is None else _labels(path, given, count)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self._header.shape[1:]
        return height, width, channels

    def read(self, start: int, end: int) -> Tensor:
        """Return a span as uint8 [n, H, W, C] on the device. Raises `UserError`."""
        return torch.from_numpy(self.read_array(start, end)).to(self._device)

    def read_array(self, start: int, end: int) -> NDArray[np.uint8]:
        """Return a span as uint8 [n, H, W, C]; spans in order are read once."""
        size = math.prod(self.shape)
        try:
            if self._stream is None or start < self._position:
                archive = zipfile.ZipFile(self.path)
                self._stream = archive.open(self._member)
                array_header(self._stream)
                self._position = 0
            self._stream.seek((start - self._position) * size, io.SEEK_CUR)  # in small pieces
            data = self._read((end - start) * size)
        except _DAMAGE as error:
            raise _refused(self.path, error) from error
        self._position = end
        return np.frombuffer(data, np.uint8).reshape(end - start, *self.shape).copy()

    def _read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        if len(data) != size:
            raise ValueError(f"it ends {size - len(data)} bytes before its images do")
        return data


class FolderImages:
    """Images of a folder: PNG, JPEG or WEBP, in the order of their paths, all of one size.

    Where they lie in sub-folders, these are the classes, in their order. Arguments as of
    `NpzImages`.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.path, self._device, self.digest = path, device, ""
        if not path.is_dir():
            raise UserError(f"{path}: no such folder")
        self.files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not self.files:
            raise UserError(f"{path}: no image below it ({', '.join(_SUFFIXES)})")
        parents = [file.relative_to(path).parts[:-1] for file in self.files]
        self.has_labels = all(parents)
        self.labels = np.full(len(self.files), -1, np.int64)
        if self.has_labels:
            names = sorted({parts[0] for parts in parents})
            places = {name: label for label, name in enumerate(names)}
            self.labels = np.array([places[parts[0]] for parts in parents], np.int64)
        first = _pixels(self.files[0], None)
        self.shape: tuple[int, int, int] = (first.shape[0], first.shape[1], first.shape[2])

    def read(self, start: int, end: int) -> Tensor:
        """Return a span as uint8 [n, H, W, C] on the device. Raises `UserError`."""
        return torch.from_numpy(self.read_array(start, end)).to(self._device)

    def read_array(self, start: int, end: int) -> NDArray[np.uint8]:
        """Return a span as uint8 [n, H, W, C]; decoders let other threads run."""
        with ThreadPoolExecutor(available_cores(), "decode") as pool:
            pixels = list(pool.map(partial(_pixels, shape=self.shape), self.files[start:end]))
        return np.stack(pixels)


Images = NpzImages | FolderImages


def open_images(path: Path, device: torch.device | str = "cpu") -> Images:
    """Open an `.npz` or a folder of images. Raises `UserError` for anything else."""
    if path.is_dir():
        return FolderImages(path, device)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    return NpzImages(path, device)


def spans(images: Images, size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield all images with their labels, so many at a time."""
    for start in range(0, len(images.labels), size):
        end = min(start + size, len(images.labels))
        yield images.read_array(start, end), images.labels[start:end]


def content_digest(images: Images, seen: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 over shape and pixels: the same images in another form are the same.

    All are read, once; `seen` hears how many so far.
    """
    if not images.digest:
        digest, count = hashlib.sha256(f"{len(images.labels)} {images.shape}".encode()), 0
        for pixels, _ in spans(images, 512):
            digest.update(pixels.data)
            count += len(pixels)
            if seen is not None:
                seen(count)
        images.digest = digest.hexdigest()
    return images.digest


def size_in_words(shape: tuple[int, int, int]) -> str:
    """Say height, width and channels: `256 x 256 pixels, 3 channels`."""
    return f"{shape[0]} x {shape[1]} pixels, {shape[2]} channel{'s' if shape[2] != 1 else ''}"


def files_digest(images: Images) -> str:
    """Return a digest of the files' paths, sizes and times: while it stays, so do the images.

    It takes no reading, other than `content_digest`. Raises `UserError` where a file is gone.
    """
    facts = []
    for file in images.files:
        with explained(file, "read"):
            status = file.stat()
        facts.append([str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class TimedImages:
    """Given images as they are looked at; it notices on the way whether they differ at all."""

    def __init__(self, images: Images) -> None:
        """Take over images; their device is where spans go."""
        self._images, self.labels = images, images.labels
        self._shade = int(images.read_array(0, 1).flat[0])
        self._begun: float | None = None
        self._read, self._unlike = 0, 0

    @property
    def images_per_second(self) -> float:
        """Throughput so far, since the first reading."""
        return self._read / max(self._seconds, 1e-9)

    @property
    def _seconds(self) -> float:
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def facts(self) -> dict[str, float]:
        """Return the seconds so far, and how many images differ from one plain surface.

        It is that of the first pixel of the set, so that all processes mean the same.
        """
        return {"seconds": self._seconds, "unlike": float(self._unlike)}

    def read(self, start: int, end: int) -> Tensor:
        """Return a span as uint8 [n, H, W, C] on the device. Raises `UserError`."""
        if self._begun is None:
            self._begun = time.monotonic()
        found = self._images.read(start, end)
        low, high = found.flatten(1).aminmax(dim=1)
        self._unlike += int(((low != self._shade) | (high != self._shade)).sum())
        self._read += end - start
        return found

    def check(self, unlike: float) -> None:
        """Refuse a set of which no image is unlike; see `facts`. Raises `UserError`."""
        if not unlike:
            what = "black" if self._shade == 0 else f"of one value, {self._shade}"
            raise UserError(
                f"{self._images.path}: every pixel of every image is {what}: nothing can be "
                "measured"
            )


def _images_header(header: ArrayHeader) -> ArrayHeader:
    shape, dtype = header.shape, header.dtype
    if dtype != np.uint8:
        raise ValueError(f"{IMAGES} is {dtype.str}: images are uint8, 0 to 255")
    good = (
        len(shape) == 4 and shape[3] in (1, 3) and all(0 < side <= _MAX_SIDE for side in shape[1:])
    )
    if not good or shape[0] < 2 or header.fortran:
        raise ValueError(
            f"{IMAGES} has the shape {shape}: [N, height, width, 1 or 3] of 2 images or more"
        )
    return header


def _labels(path: Path, given: NDArray[Any], count: int) -> NDArray[np.int64]:
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise UserError(
            f"{path}: {LABELS} is {given.dtype.str} {given.shape}: a class number for each of "
            f"{count:,} images"
        )
    labels = given.astype(np.int64)
    if labels.min() < 0:
        raise UserError(f"{path}: {LABELS} has the class {labels.min()}: classes are 0 and up")
    return labels


def _pixels(file: Path, shape: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    try:
        image, _ = decode_bytes(file.read_bytes())
        grey = shape[2] == 1 if shape is not None else image.mode == "L"
        pixels = np.asarray(to_channels(image, 1 if grey else 3)[0])
    except (BadImageError, OSError) as error:
        raise UserError(f"{file}: cannot be read as an image ({one_line(error)})") from error
    found = pixels.reshape(*pixels.shape[:2], 1 if grey else 3)
    if shape is not None and found.shape != shape:
        raise UserError(
            f"{file}: {found.shape[1]} x {found.shape[0]} pixels, where the first image has "
            f"{shape[1]} x {shape[0]}: all must have one size"
        )
    return found


def _refused(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file")
    return UserError(
        f"{path}: no images in ADM's form ({one_line(error)}): {IMAGES} uint8 [N, H, W, C], "
        f"{LABELS} class numbers or none, as `epg sample --out FILE.npz` writes them"
    )

"""NumPy files that are read back: their headers are looked at before there is memory for them."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_KINDS = "biuf"  # of dtypes: bool, integers, floats; no objects, which would be pickles
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(source: Path | BinaryIO, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of a `.npz`.

    Args:
        source: the file.
        max_bytes: of all arrays together.

    Raises:
        ValueError: it is no such file, holds other things than numbers, or more of them.
    """
    found: dict[str, NDArray[Any]] = {}
    left = max_bytes
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if member.compress_type not in _COMPRESSIONS:
                    raise ValueError(f"{member.filename[:40]!r} is compressed in an unknown way")
                with archive.open(member) as stream:
                    array = _read_npy(stream, min(left, member.file_size))
                left -= array.nbytes
                found[member.filename.removesuffix(".npy")] = array
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"it is no whole .npz: {' '.join(str(error).split())}") from error
    return found


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of an array says: numbers alone, of which there are no pickles."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


def read_npy(data: bytes) -> NDArray[Any]:
    """Return the array of a `.npy`. Raises `ValueError` for anything but numbers."""
    return _read_npy(io.BytesIO(data), len(data))


def read_npy_stream(stream: Any, max_bytes: int) -> NDArray[Any]:
    """Return an array of at most so many bytes; see `read_npy`."""
    return _read_npy(stream, max_bytes)


def array_header(stream: Any) -> ArrayHeader:
    """Read the header of a `.npy`; its numbers follow. Raises `ValueError` for other things."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"an array of NumPy's format {version}")
    except (TypeError, SyntaxError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError("a damaged header of an array") from error
    if dtype.kind not in _KINDS:
        raise ValueError(f"it holds {dtype.str} where numbers are expected")
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    return ArrayHeader(shape, dtype, fortran)


def _read_npy(stream: Any, max_bytes: int) -> NDArray[Any]:
    """Read one array of at most so many bytes."""
    header = array_header(stream)
    shape, dtype = header.shape, header.dtype
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size > max_bytes:
        raise ValueError(f"an array of {size} bytes, at most {max_bytes} are read")
    array = np.empty(count, dtype)
    bytes_left = array.data.cast("B") if size else memoryview(b"")
    while bytes_left:
        read = stream.readinto(bytes_left)
        if not read:
            raise ValueError(f"an array of {size} bytes lacks the last {len(bytes_left)}")
        bytes_left = bytes_left[read:]
    return array.reshape(shape, order="F" if header.fortran else "C")

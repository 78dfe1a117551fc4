"""One Parquet file: which columns hold images and labels, and its row groups, read one by one."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from epg.data.sources.volumes import Volume
from epg.errors import UserError, one_line, shown_names

_IMAGES = ("image", "img", "jpg", "png", "image_bytes", "pixels")
_LABELS = ("label", "labels", "cls", "class", "class_name", "fine_label", "target")
_MOST_GROUP = 1024**3  # bytes of a row group's images


class ImageFile:
    """One file: its columns, row groups and labels."""

    def __init__(self, volume: Volume) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.volume, self._lock = volume, threading.Lock()
        try:
            raw = cast(Any, io.BufferedReader(_Part(volume), 1 << 20))
            self._file = pq.ParquetFile(pa.PythonFile(raw, mode="r"))
            self._schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None
        columns = self._schema.names
        self._image = self._column(columns, _IMAGES, "images")
        self._label = self._column(columns, _LABELS, "labels")
        meta = self._file.metadata
        self.num_rows = int(meta.num_rows)
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self.starts = [0, *np.cumsum(sizes).tolist()]
        self.class_names = self._names()
        self._check_groups()

    def _check_groups(self) -> None:
        """Refuse row groups that do not fit into memory. Raises `UserError`."""
        largest = max(
            (sum(c.total_uncompressed_size for c in g) for g in self._images()), default=0
        )
        if largest > _MOST_GROUP:
            raise UserError(
                f"{self.volume.place}: a row group of {largest >> 20:,} MiB of images, at most "
                f"{_MOST_GROUP >> 20:,} are read at once: write it with smaller ones "
                "(row_group_size=100)"
            )

    def _images(self) -> Iterator[list[Any]]:
        """Yield, of each row group, what the file says of its images' columns."""
        meta = self._file.metadata
        for number in range(meta.num_row_groups):
            group = meta.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            yield [c for c in columns if c.path_in_schema.partition(".")[0] == self._image]

    def _column(self, columns: list[str], known: tuple[str, ...], what: str) -> str:
        found = next((name for name in known if name in columns), None)
        if found is None:
            raise UserError(
                f"{self.volume.place}: no column of {what}: it has {shown_names(columns, 6)}; name "
                f"it {known[0]!r}"
            )
        return found

    def _names(self) -> list[str] | None:
        """Return the classes' names that `datasets` notes in the schema."""
        try:
            said = json.loads((self._schema.metadata or {})[b"huggingface"])
            names = said["info"]["features"][self._label]["names"]
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        right = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return names if right and len(set(names)) == len(names) else None

    def labels(self) -> NDArray[np.str_]:
        """Return each row's label as text. Raises `UserError` for rows without one."""
        import pyarrow as pa

        try:
            column = self._file.read(columns=[self._label]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        integral, text = pa.types.is_integer(column.type), pa.types.is_string(column.type)
        if not (integral or text or pa.types.is_large_string(column.type)):
            raise UserError(
                f"{self.volume.place}: {self._label!r} holds {column.type}; labels are whole "
                "numbers or names"
            )
        if column.null_count:
            raise UserError(
                f"{self.volume.place}: {column.null_count:,} rows have no {self._label!r}: give "
                "each row a label, or leave it out"
            )
        return np.asarray([str(value) for value in column.to_pylist()], dtype=np.str_)

    def sizes(self) -> NDArray[np.int64]:
        """Return about how many bytes each row's image has: the mean of its row group, int64 [N].

        Lengths stand before the images, in the same pages: to know them is to read them all.
        """
        found, counts = [np.zeros(0, np.int64)], np.diff(self.starts).tolist()
        for columns, count in zip(self._images(), counts, strict=True):
            found.append(np.full(count, _bytes(columns) // max(1, count), np.int64))
        return np.concatenate(found)

    def group_of(self, row: int) -> int:
        """Return the row group that a row is in."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def read_group(self, group: int) -> Any:
        """Return a row group's images. Raises `UserError`."""
        import pyarrow as pa

        try:
            with self._lock:  # one file has one position
                return self._file.read_row_group(group, columns=[self._image]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.volume.place}: no whole Parquet file ({one_line(error)[:200]}): get it again"
        )


def _bytes(columns: list[Any]) -> int:
    """Return the bytes of some columns of a row group once they are unpacked."""
    return sum(int(column.total_uncompressed_size) for column in columns)


class RowGroups:
    """Row groups that were read last, as many as fit into some bytes; each is read once."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[tuple[int, int], threading.Lock] = {}

    def get(self, file: ImageFile, group: int) -> Any:
        """Return a row group's images, a column of Arrow. Raises `UserError`."""
        key = (id(file), group)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            alone = self._reading.setdefault(key, threading.Lock())
        with alone:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            images = file.read_group(group)
            with self._lock:
                self._reading.pop(key, None)
                self._kept[key] = images
                self._bytes += images.nbytes
                while self._bytes > self._most and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return images


class _Part(io.RawIOBase):
    """A volume as a file that is read and sought in."""

    def __init__(self, volume: Volume) -> None:
        self._volume, self._position = volume, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._volume.size}
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        target = memoryview(buffer).cast("B")
        length = min(len(target), max(self._volume.size - self._position, 0))
        if length:
            target[:length] = self._volume.read(self._position, length)
            self._position += length
        return length

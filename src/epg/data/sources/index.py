"""Where each image of an archive is, without an object for each: 150 bytes an image."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from epg.data.arrays import read_npz
from epg.data.sources.base import Item

_MOST_BYTES = 8 * 1024**3
_SPLITS = ("train", "held-out")

T = TypeVar("T")


class Made(Sequence[T]):
    """A sequence whose elements are made when they are asked for, by `_made`."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(len(self))[index]
        return self._made(places) if isinstance(places, int) else [self._made(i) for i in places]

    def _made(self, place: int) -> T:
        """Return the element at a place from 0 to the length."""
        raise NotImplementedError


class Names(Made[str]):
    """Many short texts in one piece of memory."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack texts."""
        packed, ends = bytearray(), []
        for name in names:
            packed += name.encode("utf-8", "backslashreplace")
            ends.append(len(packed))
        return cls(np.frombuffer(bytes(packed), np.uint8), np.asarray(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def _made(self, place: int) -> str:
        begin = int(self.ends[place - 1]) if place else 0
        return self.text[begin : int(self.ends[place])].tobytes().decode("utf-8", "replace")


@dataclass
class Index:
    """The samples of one archive, in its order.

    Attributes:
        names: for people.
        offsets: of each image within the volume, int64 [N].
        lengths: likewise, in bytes.
        labels: the different labels as they are written in the archive.
        codes: of each image, the position of its label among `labels`, int64 [N].
        checksums: CRC-32 of each image's bytes, −1 where they were not read, int64 [N].
        ignored: members that are no samples, counted by reason.
    """

    names: Names
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: list[str]
    codes: NDArray[np.int64]
    checksums: NDArray[np.int64]
    ignored: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads: the same index gives the same bytes."""
        said = json.dumps({"labels": self.labels, "ignored": self.ignored}, sort_keys=True)
        file = io.BytesIO()
        np.savez_compressed(
            file,
            text=self.names.text,
            ends=self.names.ends,
            offsets=self.offsets,
            lengths=self.lengths,
            codes=self.codes,
            checksums=self.checksums,
            said=np.frombuffer(said.encode("ascii"), np.uint8),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Index | None:
        """Read an index of a volume of `size` bytes; None for anything that cannot be one."""
        try:
            arrays = read_npz(io.BytesIO(data), _MOST_BYTES)
            said = json.loads(arrays.pop("said").tobytes())
            labels, ignored = list(said["labels"]), dict(said["ignored"])
            text, ends = arrays["text"], arrays["ends"]
            offsets, lengths, codes, checksums = (
                arrays[key] for key in ("offsets", "lengths", "codes", "checksums")
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        numbers = (ends, offsets, lengths, codes, checksums)
        right = (
            text.dtype == np.uint8
            and all(a.dtype == np.int64 and a.ndim == 1 and len(a) == len(ends) for a in numbers)
            and all((a >= 0).all() for a in numbers[:-1])
            and not ((checksums < -1) | (checksums >= 2**32)).any()
            and (not len(ends) or (int(ends[-1]) == len(text) and (np.diff(ends) >= 0).all()))
            and not (offsets > size).any()
            and not (lengths > size - offsets).any()
            and not (codes >= len(labels)).any()
            and all(isinstance(label, str) for label in labels)
            and all(isinstance(n, int) for n in ignored.values())
        )
        if not right:
            return None
        return cls(Names(text, ends), offsets, lengths, labels, codes, checksums, ignored)


class IndexWriter:
    """Gathers an index, sample after sample."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), Growing()
        self._offsets, self._lengths, self._codes = Growing(), Growing(), Growing()
        self._checksums = Growing()
        self._labels: dict[str, int] = {}
        self.ignored: Counter[str] = Counter()

    def add(self, name: str, label: str, offset: int, length: int, checksum: int) -> None:
        """Add a sample; its CRC-32 is −1 where it is not known."""
        self._text += name.encode("utf-8", "backslashreplace")
        self._ends.append(len(self._text))
        self._offsets.append(offset)
        self._lengths.append(length)
        self._checksums.append(checksum)
        self._codes.append(self._labels.setdefault(label, len(self._labels)))

    def index(self) -> Index:
        """Return what was gathered."""
        names = Names(np.frombuffer(bytes(self._text), np.uint8), self._ends.array())
        return Index(
            names,
            self._offsets.array(),
            self._lengths.array(),
            list(self._labels),
            self._codes.array(),
            self._checksums.array(),
            dict(sorted(self.ignored.items())),
        )


class Growing:
    """Whole numbers, eight bytes each, that grow at the end."""

    def __init__(self) -> None:
        self._full: list[NDArray[np.int64]] = []
        self._new: list[int] = []

    def append(self, number: int) -> None:
        """Add one."""
        self._new.append(number)
        if len(self._new) == 65_536:
            self._full.append(np.asarray(self._new, np.int64))
            self._new = []

    def array(self) -> NDArray[np.int64]:
        """Return them all."""
        return np.concatenate([*self._full, np.asarray(self._new, np.int64)])


class ItemTable(Made[Item]):
    """Items, train before held-out, by label and in the order of the rows; made when asked for.

    Args:
        held_out: of each row, whether it is held out, bool [N].
        labels: of each row, int [N].
        num_classes: labels are below it.
        names: of each row.
        sizes: bytes of each row's file, int64 [N]; None where it is no file.
    """

    def __init__(
        self,
        held_out: NDArray[np.bool_],
        labels: NDArray[np.int64],
        num_classes: int,
        names: Sequence[str],
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        group = held_out.astype(np.int64) * num_classes + labels
        self._rows = np.argsort(group, kind="stable")
        self._starts = np.searchsorted(group[self._rows], np.arange(2 * num_classes + 1))
        self._num_classes, self._names, self._sizes = num_classes, names, sizes

    def __len__(self) -> int:
        return len(self._rows)

    def _made(self, place: int) -> Item:
        group = int(np.searchsorted(self._starts, place, side="right")) - 1
        split, label = divmod(group, self._num_classes)
        number = place - int(self._starts[group])
        return self._item(split, label, number, int(self._rows[place]))

    def _item(self, split: int, label: int, number: int, row: int) -> Item:
        size = int(self._sizes[row]) if self._sizes is not None else 0
        return Item(_SPLITS[split], label, number, self._names[row], size)

    def __iter__(self) -> Iterator[Item]:
        for group in range(2 * self._num_classes):
            split, label = divmod(group, self._num_classes)
            rows = self._rows[self._starts[group] : self._starts[group + 1]].tolist()
            for number, row in enumerate(rows):
                yield self._item(split, label, number, row)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each item, int64 [N]."""
        return self._rows

    def row(self, item: Item) -> int:
        """Return the row that an item stands for."""
        group = _SPLITS.index(item.split) * self._num_classes + item.label
        return int(self._rows[int(self._starts[group]) + item.number])

    def sizes(self, split: str) -> list[int]:
        """Return the number of items of each class."""
        first = _SPLITS.index(split) * self._num_classes
        found: list[int] = np.diff(self._starts[first : first + self._num_classes + 1]).tolist()
        return found

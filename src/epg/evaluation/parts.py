"""What was seen of a set of images, part by part: kept in the store, joined at the end.

A part is a stretch of the set. Whoever is killed loses the part that is not stored yet; whoever
comes later, and any number of processes at once, does what no part covers. Joining them needs no
order, so neither kills nor the number of processes change a figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epg.data.arrays import read_npz
from epg.evaluation.features.base import Description
from epg.evaluation.features.seen import Seen
from epg.store import Store
from epg.store.reading import read_bytes

Stretch = tuple[int, int]  # first image, and the one after the last

_MAX_BYTES = 4 * 1024**3
_NAME = re.compile(r"(\d{10})-(\d{10})\.npz")


@dataclass(frozen=True)
class Pictures:
    """The few images of a set that are kept, with their numbers in the set.

    Attributes:
        first: the first ones, uint8 [n, H, W, C], numbers 0 ... n - 1 over all parts.
        first_index: int64 [n].
        ranked: those that the judge is surest and least sure of, uint8 [m, H, W, C].
        ranked_index: int64 [m].
        ranked_confidence: log-probability of the class asked for, float32 [m].
    """

    first: NDArray[np.uint8]
    first_index: NDArray[np.int64]
    ranked: NDArray[np.uint8]
    ranked_index: NDArray[np.int64]
    ranked_confidence: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Pictures], ranked: int) -> Pictures:
        """Return those of all parts together, `ranked` of them at either end of the ranking."""
        parts = sorted(parts, key=lambda part: tuple(part.first_index[:1]) or (2**62,))
        whole = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in cls.__dataclass_fields__
        }
        order = np.lexsort((whole["ranked_index"], whole["ranked_confidence"]))
        if len(order) > 2 * ranked:
            order = np.concatenate([order[:ranked], order[-ranked:]])
        for name in ("ranked", "ranked_index", "ranked_confidence"):
            whole[name] = whole[name][order]
        return cls(**whole)


@dataclass(frozen=True)
class Part:
    """A stretch of a set, as all networks saw it.

    Attributes:
        stretch: which images.
        labels: their classes, int64 [n].
        seen: name of a network -> what it saw.
        pictures: those of them that are kept.
        facts: numbers that add up over parts.
    """

    stretch: Stretch
    labels: NDArray[np.int64]
    seen: Mapping[str, Seen]
    pictures: Pictures
    facts: Mapping[str, float]

    @property
    def name(self) -> str:
        """Name of its object."""
        return f"{self.stretch[0]:010d}-{self.stretch[1]:010d}.npz"

    def to_npz(self) -> bytes:
        """Return its object's content; every array has a checksum there."""
        stretch = np.array(self.stretch, np.int64)
        arrays: dict[str, NDArray[Any]] = {"stretch": stretch, "labels": self.labels}
        for kind, seen in self.seen.items():
            arrays |= {f"seen.{kind}.{name}": array for name, array in seen.arrays().items()}
        for name in Pictures.__dataclass_fields__:
            arrays[f"pictures.{name}"] = getattr(self.pictures, name)
        for name, value in self.facts.items():
            arrays[f"facts.{name}"] = np.array(value, np.float64)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, data: bytes) -> Part:
        """Read what `to_npz` gave. Raises `ValueError` or `KeyError` for anything else."""
        arrays = read_npz(io.BytesIO(data), _MAX_BYTES)
        start, end = (int(value) for value in arrays["stretch"])
        kinds = dict.fromkeys(name.split(".")[1] for name in arrays if name.startswith("seen."))
        seen = {kind: Seen.of(_below(arrays, f"seen.{kind}.")) for kind in kinds}
        wrong = arrays["labels"].shape != (end - start,)
        for one in seen.values():
            wrong |= len(one.index) != end - start or one.index[0] != start
        if wrong:
            raise ValueError("it does not hold what its stretch says")
        facts = {name: float(value) for name, value in _below(arrays, "facts.").items()}
        pictures = Pictures(**_below(arrays, "pictures."))
        return cls((start, end), arrays["labels"], seen, pictures, facts)


@dataclass(frozen=True)
class Whole:
    """All parts of a set, joined.

    Attributes:
        found: name of a network -> its description.
        labels: class of every image, int64 [N].
        pictures: the images that were kept.
        facts: sums over the parts.
    """

    found: dict[str, Description]
    labels: NDArray[np.int64]
    pictures: Pictures
    facts: dict[str, float]

    @classmethod
    def of(cls, parts: Sequence[Part], ranked: int) -> Whole:
        """Join parts that cover a set."""
        parts = sorted(parts, key=lambda part: part.stretch)
        labels = np.concatenate([part.labels for part in parts])
        kinds = list(parts[0].seen)
        found = {kind: Seen.described([part.seen[kind] for part in parts]) for kind in kinds}
        names = dict.fromkeys(name for part in parts for name in part.facts)
        facts = {name: sum(part.facts.get(name, 0.0) for part in parts) for name in names}
        pictures = Pictures.joined([part.pictures for part in parts], ranked)
        return cls(found, labels, pictures, facts)


class StoredParts:
    """Parts of one set, as they lie in a store under a folder of their own.

    Args:
        store: where.
        folder: says what they depend on, such as a fingerprint: parts of anything else lie
            elsewhere.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder

    def put(self, part: Part) -> None:
        """Store a part."""
        self._store.put_bytes(f"{self._folder}/{part.name}", part.to_npz())

    def read(self) -> list[Part]:
        """Return the parts that can be read and do not overlap; damaged ones are made again."""
        found: list[Part] = []
        for info in self._store.list(f"{self._folder}/"):
            name = info.key.rpartition("/")[2]
            if not _NAME.fullmatch(name):
                continue
            try:
                part = Part.from_npz(read_bytes(self._store, info.key, _MAX_BYTES))
            except (ValueError, KeyError, TypeError, IndexError):
                continue
            free = not found or part.stretch[0] >= found[-1].stretch[1]
            if part.name == name and free:
                found.append(part)
        return found

    def clear(self) -> None:
        """Remove them all."""
        self._store.clear(self._folder)


def uncovered(count: int, span: int, covered: Iterable[Stretch]) -> list[Stretch]:
    """Return the spans of a set that no stretch covers, in order.

    Args:
        count: images of the set.
        span: images of a span; the last one may be shorter.
        covered: stretches that begin and end where spans do.
    """
    taken = np.zeros(-(-count // span), bool)
    for start, end in covered:
        taken[start // span : -(-end // span)] = True
    return [(int(i) * span, min((int(i) + 1) * span, count)) for i in np.flatnonzero(~taken)]


def share(spans: Sequence[Stretch], rank: int, size: int) -> list[Stretch]:
    """Return the spans of one of `size` processes: a run of neighbours, so that parts are few."""
    low, high = (len(spans) * r // size for r in (rank, rank + 1))
    return list(spans[low:high])


def _below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}

"""What every source offers: a cheap list of items, and one image at a time."""

from __future__ import annotations

import contextlib
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from epg.data.order import permutation
from epg.errors import UserError


class Item(NamedTuple):
    """One sample before it is read.

    Attributes:
        split: `train` or `held-out`.
        label: index into the source's classes.
        number: position among the items of its class and split; becomes part of its key.
        name: the original name, for people.
    """

    split: str
    label: int
    number: int
    name: str


class Image(NamedTuple):
    """Pixels uint8 [H, W, C] as they will be stored, and the names of the rules applied."""

    pixels: NDArray[np.uint8]
    conversions: tuple[str, ...] = ()


class BadImageError(ValueError):
    """One image that cannot be used: it is skipped, counted and named.

    Attributes:
        reason: a few words that many images share; the report counts by it.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


class SourceNotFound(UserError):  # noqa: N818 - says what it is
    """The source is not on this machine; it may be on another one that has sharded it."""


class Source(Protocol):
    """A data set before it is sharded.

    Attributes:
        spec: as in the recipe.
        classes: class names; the position is the label.
        items: all samples, train before held-out, by class and name.
        ignored: files and folders that are not samples, counted by reason.
        parallel: whether `load` gains from threads.
    """

    spec: str
    classes: list[str]
    items: list[Item]
    ignored: dict[str, int]
    parallel: bool

    def load(self, item: Item) -> Image:
        """Read one image. Raises `BadImageError`, or `UserError` when the whole set is mistaken."""
        ...

    def decoding(self) -> contextlib.AbstractContextManager[None]:
        """Return a context to be entered, in the main thread, around calls of `load`."""
        ...


def stratified_held_out(
    class_sizes: list[int], fraction: float, seed: int
) -> list[NDArray[np.int64]]:
    """Return, per class, the sorted positions that are held out.

    `fraction` of each class, rounded; at least one where a class has two samples or more, and
    never all of them. A pure function of the arguments.
    """
    chosen = []
    for label, size in enumerate(class_sizes):
        count = min(max(round(size * fraction), 1), size - 1)
        chosen.append(np.sort(permutation(size, seed, label)[:count]))
    return chosen


def split_items(
    names: list[list[str]], held_out: list[NDArray[np.int64]]
) -> tuple[list[Item], list[int]]:
    """Return items, train first, and for each its position within its class.

    Args:
        names: per class, the names of its samples in order.
        held_out: per class, the positions that are held out.
    """
    items: list[Item] = []
    positions: list[int] = []
    for split in ("train", "held-out"):
        for label, class_names in enumerate(names):
            chosen = set(held_out[label].tolist())
            inside = [i for i in range(len(class_names)) if (i in chosen) == (split == "held-out")]
            for number, position in enumerate(inside):
                items.append(Item(split, label, number, class_names[position]))
                positions.append(position)
    return items, positions

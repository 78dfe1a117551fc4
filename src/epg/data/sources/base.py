"""What every source offers: a cheap list of items, and their images as a stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from epg.data.order import permutation
from epg.data.settings import ImageSettings
from epg.errors import UserError

if TYPE_CHECKING:
    from epg.data.sources.contents import Contents

#: Hears how many files of how many were read.
OnRead = Callable[[int, int], None]


class Item(NamedTuple):
    """One sample before it is read.

    Attributes:
        split: `train` or `held-out`.
        label: index into the source's classes.
        number: position among the items of its class and split; becomes part of its key.
        name: the original name, for people.
        size: bytes of its file, or about so many, without reading it; 0 for pixels of no file.
    """

    split: str
    label: int
    number: int
    name: str
    size: int = 0


class Image(NamedTuple):
    """Pixels uint8 [H, W, C] of the crop, and the names of the rules applied.

    `content` is what is stored, with the extension that tells its kind, once it is encoded;
    `shorter_side` is the original's, in pixels, 0 where there was none.
    """

    pixels: NDArray[np.uint8]
    conversions: tuple[str, ...] = ()
    content: bytes = b""
    extension: str = ""
    shorter_side: int = 0


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


#: Items, each with its image or with what is wrong with it; closed where it is left early.
Reading = Generator[tuple[Item, Image | BadImageError], None, None]


class Source(Protocol):
    """A data set before it is sharded.

    Attributes:
        spec: as in the recipe.
        classes: class names; the position is the label.
        items: all samples, train before held-out, by class, in the source's order; a million of
            them may be made only when they are asked for.
        ignored: files and folders that are not samples, counted by reason.

    A source whose samples are read in blocks, many at a time, says in `blocks` which block each
    item is of, int64 [N]: shards are then planned so that each block is read once.
    """

    spec: str
    classes: list[str]
    ignored: dict[str, int]

    @property
    def items(self) -> Sequence[Item]:
        """See above."""
        ...

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield some of the items, in the order given; to be used in the main thread.

        Raises:
            UserError: the whole set is mistaken.
        """
        ...


class Scheme(Protocol):
    """A kind of source: a module whose functions take what stands behind the scheme's colon.

    Attributes:
        USAGE: how to write it, for people; with a colon if something must stand behind one.
    """

    USAGE: str

    def open(
        self, location: str, config: ImageSettings, seed: int, contents: Contents | None
    ) -> Source:
        """Return the source, split by `seed`; `contents` says what was found out before.

        Raises:
            SourceNotFound: it is not on this machine.
            UserError: an unusable source.
        """
        ...

    def count_classes(self, location: str) -> int:
        """Return the number of classes without opening an image. Raises `UserError`."""
        ...

    def contents(
        self, location: str, known: Iterable[Contents], on_progress: OnRead | None
    ) -> Contents:
        """Return what the data are, whatever path they have; see `reading.read_contents`.

        Raises:
            SourceNotFound: they are not on this machine.
            UserError: an unusable source.
        """
        ...

    def absolute(self, location: str) -> str:
        """Return the location as it must be written in a process with another folder."""
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
    names: list[list[str]],
    held_out: list[NDArray[np.int64]],
    sizes: list[list[int]] | None = None,
) -> list[Item]:
    """Return items, train first.

    Args:
        names: per class, the names of its samples in order.
        held_out: per class, the positions that are held out.
        sizes: per class, the bytes of their files, where these are known.
    """
    items: list[Item] = []
    for split in ("train", "held-out"):
        for label, class_names in enumerate(names):
            chosen = set(held_out[label].tolist())
            inside = [i for i in range(len(class_names)) if (i in chosen) == (split == "held-out")]
            for number, position in enumerate(inside):
                size = sizes[label][position] if sizes is not None else 0
                items.append(Item(split, label, number, class_names[position], size))
    return items

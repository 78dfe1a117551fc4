"""Any folder of images: one sub-folder per class.

What counts is a file's content, never its extension.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from epg.data.settings import ImageSettings
from epg.data.sources.base import (
    Item,
    OnRead,
    Reading,
    Source,
    split_items,
    stratified_held_out,
)
from epg.data.sources.contents import Contents
from epg.data.sources.fetching import read_file, read_items
from epg.data.sources.listing import scan_folder
from epg.data.sources.reading import read_contents
from epg.errors import printable

USAGE = "folder:PATH with one sub-folder per class"


def open(
    location: str, config: ImageSettings, seed: int, contents: Contents | None = None
) -> Source:
    """Return the folder's images, split by `seed`. Raises `UserError` for an unusable folder."""
    del contents
    return FolderSource(_path(location), config, seed)


def count_classes(location: str) -> int:
    """Return the number of sub-folders. Raises `UserError` for an unusable folder."""
    return len(scan_folder(_path(location)).classes)


def contents(location: str, known: Iterable[Contents], on_progress: OnRead | None) -> Contents:
    """Return names and digests of all files. Raises `SourceNotFound` or `UserError`."""
    return read_contents(scan_folder(_path(location)), known, on_progress)


def absolute(location: str) -> str:
    """Return the absolute path."""
    return str(_path(location).absolute())


def _path(location: str) -> Path:
    return Path(location).expanduser()


class FolderSource:
    """Images of a folder, cropped and converted to the recipe's size and channels.

    Raises:
        UserError: the folder is missing, empty, or not one sub-folder per class.
    """

    def __init__(self, path: Path, config: ImageSettings, seed: int) -> None:
        listing = scan_folder(path)
        self.spec = printable(f"folder:{path}")
        # Any file and any page can take these; the folders' own names may be no UTF-8.
        self.classes = [printable(name) for name in listing.classes]
        self._names = listing.classes
        self.ignored = listing.ignored
        self._folders = listing.folders
        self._config = config
        if "all" in listing.files:
            names = [[file.name for file in files] for files in listing.files["all"]]
            counts = [len(of_class) for of_class in names]
            held_out = stratified_held_out(counts, config.held_out_fraction, seed)
            sizes = [[file.size for file in files] for files in listing.files["all"]]
            self.items = split_items(names, held_out, sizes)
        else:
            self.items = [
                Item(split, label, number, file.name, file.size)
                for split in ("train", "held-out")
                for label, files in enumerate(listing.files[split])
                for number, file in enumerate(files)
            ]
        self.items = [item._replace(name=self._relative(item, path)) for item in self.items]
        self._root = path

    def _relative(self, item: Item, root: Path) -> str:
        folder = self._folders.get("all") or self._folders[item.split]
        return str((folder / self._names[item.label] / item.name).relative_to(root))

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield images, each uint8 [H, W, C]."""
        return read_items(items, lambda item: read_file(self._root / item.name), self._config)

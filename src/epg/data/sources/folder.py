"""Any folder of images: one sub-folder per class.

What counts is a file's content, never its extension.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from epg.data.settings import ImageSettings
from epg.data.sources.base import Image, Item, split_items, stratified_held_out
from epg.data.sources.decode import centre_crop, decode_file, decoder_warnings, to_channels
from epg.data.sources.listing import scan_folder


class FolderSource:
    """Images of a folder, cropped and converted to the recipe's size and channels.

    Raises:
        UserError: the folder is missing, empty, or not one sub-folder per class.
    """

    parallel = True

    def __init__(self, path: Path, config: ImageSettings, seed: int) -> None:
        listing = scan_folder(path)
        self.spec = f"folder:{path}"
        self.classes = listing.classes
        self.ignored = listing.ignored
        self._folders = listing.folders
        self._size, self._channels = config.image_size, config.channels
        if "all" in listing.files:
            names = [[file.name for file in files] for files in listing.files["all"]]
            sizes = [len(of_class) for of_class in names]
            held_out = stratified_held_out(sizes, config.held_out_fraction, seed)
            self.items, _ = split_items(names, held_out)
        else:
            self.items = [
                Item(split, label, number, file.name)
                for split in ("train", "held-out")
                for label, files in enumerate(listing.files[split])
                for number, file in enumerate(files)
            ]
        self.items = [item._replace(name=self._relative(item, path)) for item in self.items]
        self._root = path

    def _relative(self, item: Item, root: Path) -> str:
        folder = self._folders.get("all") or self._folders[item.split]
        return str((folder / self.classes[item.label] / item.name).relative_to(root))

    def load(self, item: Item) -> Image:
        """Return one image, uint8 [H, W, C]. Raises `BadImageError`.

        Raises:
            UserError: the recipe wants one channel and the image has colours.
        """
        image, rules = decode_file(self._root / item.name)
        image, more = to_channels(image, self._channels, str(self._root / item.name))
        pixels = np.asarray(centre_crop(image, self._size), np.uint8)
        shape = (self._size, self._size, self._channels)
        return Image(pixels.reshape(shape), (*rules, *more))

    def decoding(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which Pillow's warnings about bombs and EXIF are errors."""
        return decoder_warnings()

"""Where images come from: `digits`, or `folder:PATH` with one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

from epg.data.settings import ImageSettings
from epg.data.sources.base import BadImageError, Image, Item, Source, SourceNotFound
from epg.data.sources.listing import listing_digest, scan_folder
from epg.errors import UserError

__all__ = [
    "BadImageError",
    "Image",
    "Item",
    "Source",
    "SourceNotFound",
    "absolute_spec",
    "count_classes",
    "open_source",
    "source_digest",
]

_FOLDER = "folder:"


def open_source(spec: str, config: ImageSettings, seed: int = 0) -> Source:
    """Return the source that `spec` names, split into train and held-out by `seed`.

    Raises:
        UserError: unknown source, unusable folder, or a source that contradicts `config`.
    """
    # Imported here: a look at a finished stage needs neither scikit-learn nor Pillow.
    source: Source
    if spec == "digits":
        from epg.data.sources.digits import DigitsSource

        source = DigitsSource(config, seed)
    else:
        from epg.data.sources.folder import FolderSource

        source = FolderSource(_folder_path(spec), config, seed)
    if len(source.classes) != config.num_classes:
        raise UserError(
            f"data.num_classes is {config.num_classes}, but {spec} has {len(source.classes)} "
            f"classes: use --set data.num_classes={len(source.classes)}"
        )
    return source


def count_classes(spec: str) -> int | None:
    """Return the number of classes without opening an image.

    Raises:
        UserError: unknown source or unusable folder.
    """
    if spec == "digits":
        return 10
    return len(scan_folder(_folder_path(spec)).classes)


def source_digest(spec: str) -> str:
    """Return a digest that changes when the data do: names, sizes and times, no content.

    Raises:
        SourceNotFound: the folder does not exist here.
        UserError: unknown source or unusable folder.
    """
    if spec == "digits":
        return "digits"  # bundled with scikit-learn, unchanged since 1998
    return listing_digest(scan_folder(_folder_path(spec)))


def absolute_spec(spec: str) -> str:
    """Return `spec` with its folder made absolute, so that it means the same in any process."""
    if not spec.startswith(_FOLDER) or spec == _FOLDER:
        return spec
    return f"{_FOLDER}{_folder_path(spec).absolute()}"


def _folder_path(spec: str) -> Path:
    path = spec.removeprefix(_FOLDER)
    if not spec.startswith(_FOLDER) or not path:
        raise UserError(
            f"data.source is {spec!r}: use digits, or folder:PATH with one sub-folder per class"
        )
    return Path(path).expanduser()

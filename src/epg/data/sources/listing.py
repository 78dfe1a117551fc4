"""What a folder of images holds, found without opening a file (and without loading Pillow).

One sub-folder per class, optionally below `train/` and `val/` (or `valid/`,
`validation/`, `held-out/`, `test/`). Class names are the folders' names
in bytewise order (no locale), files likewise; sub-folders of a class folder are not entered.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from epg.data.sources.base import SourceNotFound
from epg.errors import UserError, shown_names

#: What may stand beside `train/`; `test/` only where none of the others does.
_HELD_OUT_FOLDERS = ("val", "valid", "validation", "held-out")
_LAST_RESORT = "test"
_SYSTEM_FILES = {"Thumbs.db", "desktop.ini"}


class File(NamedTuple):
    """A listed file: name, size in bytes, time of change in ns."""

    name: str
    size: int
    changed: int


class Listing(NamedTuple):
    """What a folder holds, without any content.

    `folders` maps a split to the folder that has its class folders (`all`: not split yet);
    `files[split][label]` are the files of a class, sorted by name.
    """

    root: Path
    classes: list[str]
    folders: dict[str, Path]
    files: dict[str, list[list[File]]]
    ignored: dict[str, int]


def scan_folder(path: Path) -> Listing:
    """List classes and files. Raises `UserError` unless `path` has one sub-folder per class."""
    if not path.exists():
        raise SourceNotFound(f"folder:{path}: no such folder; give one with a sub-folder per class")
    if not path.is_dir():
        raise UserError(f"folder:{path}: not a folder; give one with a sub-folder per class")
    ignored: Counter[str] = Counter()
    folders = _split_folders(path, ignored)
    classes = {split: _classes(folder, ignored) for split, folder in folders.items()}
    names = next(iter(classes.values()))
    for split, other in classes.items():
        if other != names:
            odd = sorted(set(other) ^ set(names), key=os.fsencode)
            raise UserError(
                f"folder:{path}: {folders['train'].name}/ and {folders[split].name}/ must have "
                f"the same classes; only one of them has {shown_names(odd)}"
            )
    files = {
        split: [_files(folder / name, ignored) for name in names]
        for split, folder in folders.items()
    }
    if len(names) < 2:
        raise UserError(
            f"folder:{path} has only one class, {names[0]!r}; at least 2 sub-folders are needed, "
            "one per class"
        )
    if "all" in files:
        _at_least_two(path, names, files["all"])
    return Listing(path, names, folders, files, dict(sorted(ignored.items())))


def _split_folders(path: Path, ignored: Counter[str]) -> dict[str, Path]:
    """Return {"all": path}, or the folders of both splits where `train/` has a partner."""
    partners = [path / name for name in _HELD_OUT_FOLDERS if (path / name).is_dir()]
    last = path / _LAST_RESORT
    if not (path / "train").is_dir() or not (partners or last.is_dir()):
        return {"all": path}
    if len(partners) > 1:
        names = " and ".join(f"{partner.name}/" for partner in partners)
        raise UserError(f"folder:{path} has {names} beside train/: keep one of them")
    if partners and last.is_dir():
        ignored["folder test/, since another one is held out"] += 1
    return {"train": path / "train", "held-out": partners[0] if partners else last}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise UserError(f"the folder {str(folder)!r} cannot be read: {error.strerror}") from None


def _classes(folder: Path, ignored: Counter[str]) -> list[str]:
    names, loose = [], 0
    for entry in _entries(folder):
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            ignored["hidden file or folder"] += 1
        elif entry.is_dir():
            names.append(entry.name)
        else:
            loose += 1
    if not names and loose:
        raise UserError(
            f"folder:{folder} has {loose} files and no sub-folders: put the images of each class "
            f"into a folder of their own, such as {folder}/CLASS_NAME/"
        )
    if not names:
        raise UserError(f"folder:{folder} is empty; it needs one sub-folder of images per class")
    if loose:
        ignored["file outside the class folders"] += loose
    return names


def _files(folder: Path, ignored: Counter[str]) -> list[File]:
    files, folders = [], 0
    for entry in _entries(folder):
        if entry.name.startswith(".") or entry.name in _SYSTEM_FILES:
            ignored["hidden file or folder"] += 1
        elif entry.is_dir():
            folders += 1
        else:
            files.append(_stat(entry))
    ignored.update({"folder inside a class folder": folders} if folders else {})
    if not files:
        inside = f", only {folders} folders: is it a class, or the parent of classes?"
        raise UserError(
            f"the class folder {str(folder)!r} has no images{inside if folders else ''}; "
            "add some or remove the folder"
        )
    return files


def _stat(entry: os.DirEntry[str]) -> File:
    try:
        status = entry.stat()
        return File(entry.name, status.st_size, status.st_mtime_ns)
    except OSError:  # a link to nowhere: reading it will say so, and count it
        return File(entry.name, -1, -1)


def _at_least_two(path: Path, names: list[str], files: list[list[File]]) -> None:
    lonely = [name for name, of_class in zip(names, files, strict=True) if len(of_class) < 2]
    if lonely:
        raise UserError(
            f"folder:{path}: a class needs at least 2 images, one to train and one to hold out; "
            f"only one in {shown_names(lonely)}"
        )

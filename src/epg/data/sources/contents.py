"""What makes a data set the same: names and bytes of its images, wherever they lie."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from epg.errors import shown_names

_MAX_BYTES = 2 * 1024**3  # unpacked; ImageNet's list has 0.2 GB


class FileMark(NamedTuple):
    """A file's size in bytes, time of change in ns, and SHA-256 of its bytes."""

    size: int
    changed: int
    sha256: str


class Contents(NamedTuple):
    """Classes in the order of their labels, and a mark for each `split/class/file`.

    Of archives, a mark for each `files//name` (their classes are inside them), and what was found
    out on the way, by SHA-256 of the archive: where its samples are.
    """

    classes: list[str]
    files: dict[str, FileMark]
    indexes: tuple[tuple[str, bytes], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of names and bytes: the identity of the data."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for name in sorted(self.files):
            digest.update(json.dumps([name, self.files[name].sha256]).encode())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads: the same contents give the same bytes."""
        content: dict[str, object] = {"classes": self.classes, "files": self.files}
        if self.indexes:
            content["indexes"] = {
                digest: base64.b64encode(data).decode() for digest, data in self.indexes
            }
        text = json.dumps(content, sort_keys=True)
        return gzip.compress(text.encode("ascii"), compresslevel=1, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes) -> Contents | None:
        """Return noted contents; None for anything else, since the files can be read again."""
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                raw = json.loads(file.read(_MAX_BYTES))
            files = {name: FileMark(*mark) for name, mark in raw["files"].items()}
            right = all(
                type(m.size) is int and type(m.changed) is int and isinstance(m.sha256, str)
                for m in files.values()
            )
            indexes = tuple(
                (digest, base64.b64decode(text, validate=True))
                for digest, text in sorted(raw.get("indexes", {}).items())
            )
            classes = raw["classes"]
            if right and isinstance(classes, list) and all(isinstance(c, str) for c in classes):
                return cls(classes, files, indexes)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
            return None
        except (OSError, EOFError, zlib.error):
            return None
        return None


def changes_in_words(before: Contents, after: Contents) -> list[str]:
    """Say what differs between two contents: classes first, then images by their number."""
    renamed = _renamed_classes(before, after)
    what = "file" if any(name.startswith("files//") for name in after.files) else "image"
    words = [f"class {old!r} is now called {new!r}" for old, new in renamed.items()]
    for verb, one, other in (("gone", before, after), ("new", after, before)):
        classes = [c for c in one.classes if c not in other.classes]
        classes = [c for c in classes if c not in {*renamed, *renamed.values()}]
        if classes:
            words.append(f"{_counted(len(classes), 'class', 'classes')} {verb}: {_named(classes)}")
    old = {_under(name, renamed): mark.sha256 for name, mark in before.files.items()}
    new = {name: mark.sha256 for name, mark in after.files.items()}
    changed = [name for name in old if name in new and old[name] != new[name]]
    gone = {name: old[name] for name in old if name not in new}
    come = {name: new[name] for name in new if name not in old}
    moved = (Counter(gone.values()) & Counter(come.values())).total()
    if changed:
        words.append(f"{_counted(len(changed), what)} changed ({_named(changed)})")
    if moved:
        words.append(f"{_counted(moved, what)} under another name ({_named(come)})")
    if len(come) > moved:
        words.append(f"{_counted(len(come) - moved, what)} added ({_named(come)})")
    if len(gone) > moved:
        words.append(f"{_counted(len(gone) - moved, what)} removed ({_named(gone)})")
    if before.classes != after.classes and not words:
        words.append("the classes are in another order")
    return words


def _renamed_classes(before: Contents, after: Contents) -> dict[str, str]:
    """Pair each class that is gone with a new one of the very same files."""
    gone = _by_class(before, set(before.classes) - set(after.classes))
    come = _by_class(after, set(after.classes) - set(before.classes))
    found: dict[str, str] = {}
    for old in sorted(gone):
        new = next((c for c in sorted(come) if gone[old] and come[c] == gone[old]), None)
        if new is not None:
            found[old] = new
            del come[new]
    return found


def _by_class(contents: Contents, wanted: set[str]) -> dict[str, set[tuple[str, str, str]]]:
    found: dict[str, set[tuple[str, str, str]]] = {name: set() for name in wanted}
    for key, mark in contents.files.items():
        split, label, name = key.split("/", 2)
        if label in wanted:
            found[label].add((split, name, mark.sha256))
    return found


def _under(key: str, renamed: Mapping[str, str]) -> str:
    split, label, name = key.split("/", 2)
    return f"{split}/{renamed.get(label, label)}/{name}"


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _named(keys: Iterable[str]) -> str:
    """Name the first few, without the split that starts a file's key."""
    return shown_names(key.partition("/")[2].lstrip("/") or key for key in sorted(keys))

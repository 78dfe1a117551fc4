"""Reading what a folder's images are, and no more of it than must be read.

A listing's sizes and times are only a quick look: a file that has both as they were noted is taken
to have the bytes that were noted. A copy, another path or a `touch` cost reading, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from epg.data.sources.base import OnRead
from epg.data.sources.contents import Contents, FileMark
from epg.data.sources.listing import Listing
from epg.machine import available_cores

_BLOCK = 1024 * 1024
_MAX_THREADS = 16
_UNREADABLE = "unreadable"


def read_contents(
    listing: Listing,
    known: Iterable[Contents] = (),
    on_progress: OnRead | None = None,
) -> Contents:
    """Return a folder's contents, reading only the files that `known` ones do not vouch for.

    Args:
        listing: the folder as it is listed now.
        known: contents that were noted before, of this folder or of another.
        on_progress: called with (files read, files to read).
    """
    vouched = {
        (name, mark.size, mark.changed): mark.sha256
        for contents in known
        for name, mark in contents.files.items()
    }
    marks: dict[str, FileMark] = {}
    unread: list[tuple[str, Path]] = []
    for split, of_split in listing.files.items():
        for label, files in zip(listing.classes, of_split, strict=True):
            for file in files:
                name = f"{split}/{label}/{file.name}"
                digest = vouched.get((name, file.size, file.changed), "")
                marks[name] = FileMark(file.size, file.changed, digest)
                if not digest:
                    unread.append((name, listing.folders[split] / label / file.name))
    with ThreadPoolExecutor(min(available_cores(), _MAX_THREADS), "digest") as pool:
        digests = pool.map(_sha256, (path for _, path in unread))
        for done, ((name, _), digest) in enumerate(zip(unread, digests, strict=True), 1):
            marks[name] = marks[name]._replace(sha256=digest)
            if on_progress is not None and done % 256 == 0:
                on_progress(done, len(unread))
    return Contents(list(listing.classes), marks)


def _sha256(path: Path) -> str:
    """Digest of a regular file; of all that cannot be read the same word."""
    digest = hashlib.sha256()
    try:
        if not path.is_file():  # a pipe would be waited for
            return _UNREADABLE
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return _UNREADABLE
    return digest.hexdigest()

"""Local folders for files on their way, which go when their process does.

A folder is locked by the process that made it, and the system gives the lock up when that process
ends, however it ends. Whoever makes the next folder removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "epg-scratch-"
SETTLED_SECONDS = 60.0  # a younger one may be about to be locked


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Make an empty folder in `EPG_SCRATCH`, else in the system's place; remove it at the end.

    Args:
        name: what it is for, to be seen in a listing.
    """
    place = Path(os.environ.get("EPG_SCRATCH") or tempfile.gettempdir())
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=place))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system without locks: nobody else removes it
            stack.enter_context(held(folder))
        yield folder


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Lock a file or folder while the block runs; yields False where somebody else has it.

    Raises:
        OSError: it cannot be opened, or its file system knows no locks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove folders of processes that are gone."""
    settled = time.time() - SETTLED_SECONDS
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                status = folder.lstat()
                if status.st_uid != os.getuid() or status.st_mtime > settled:
                    continue
                with held(folder) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)

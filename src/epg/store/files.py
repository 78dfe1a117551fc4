"""Writing local files so that a reader sees the old one, the new one, or none, never a part."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from epg.errors import UserError
from epg.store.keys import PART_PREFIX
from epg.store.scratch import SETTLED_SECONDS, held

_LEFTOVER_AGE = 3600.0  # seconds after which an unfinished file that no lock keeps is nobody's
_COPY_BYTES = 1 << 20


def explain_os_error(error: OSError, place: Path, action: str) -> UserError:
    """Turn an error of the operating system into one line that says what to do."""
    what = f"cannot {action} {place}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = (
            "no space left on the disk (or quota reached): what was there before is intact; "
            "free some space and run the same command again"
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        why = "no permission: change its owner or mode, or choose another folder"
    elif error.errno == errno.EROFS:
        why = "the file system is read-only: choose another folder"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        why = "a file stands where a folder is needed: move it away or choose another folder"
    elif error.errno == errno.EISDIR:
        why = "a folder stands where a file is needed: move it away or choose another name"
    elif error.errno == errno.ENAMETOOLONG:
        why = "the name is too long for this file system: choose a shorter one"
    else:
        why = f"{error.strerror or error}: check the disk, then run the same command again"
    return UserError(f"{what}: {why}")


@contextlib.contextmanager
def explained(place: Path, action: str) -> Iterator[None]:
    """Let `OSError`s of the block through as one-line `UserError`s about `place`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, place, action) from error


def write_atomically(
    path: Path,
    write: Callable[[BinaryIO], None],
    *,
    if_absent: bool = False,
    durable: bool = True,
) -> bool:
    """Write a file under a temporary name beside `path`, then give it its name in one step.

    Args:
        path: final place; missing folders are made.
        write: receives the open temporary file.
        if_absent: never replace; two writers at once cannot both succeed.
        durable: let the bytes reach the disk before the name does.

    Returns:
        False when `if_absent` found the name taken, else True.

    Raises:
        OSError: from the operating system; nothing is left under either name.
    """
    file, part = _create_part(path.parent)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if if_absent:
            if not _link(part, path):
                return False
        else:
            part.replace(path)
        if durable:
            _sync_folder(path.parent)
        return True
    finally:
        # Gone already after a replace; also runs at KeyboardInterrupt and a full disk.
        with contextlib.suppress(OSError):
            part.unlink()


def copy_into(source: BinaryIO, target: BinaryIO) -> None:
    """Copy the rest of one open file into another in pieces of 1 MiB."""
    shutil.copyfileobj(source, target, _COPY_BYTES)


def write_pieces(pieces: Iterable[bytes]) -> Callable[[BinaryIO], None]:
    """Return a writer for `write_atomically` that writes the pieces one after the other."""

    def write(file: BinaryIO) -> None:
        for piece in pieces:
            file.write(piece)

    return write


def sweep_leftovers(folder: Path, *, below: bool = False) -> None:
    """Remove unfinished files whose writers are gone from a folder.

    A writer locks its file. One that nobody has locked, nor written to for a minute, has lost its
    writer; where the file system knows no locks, one that is an hour old.

    Args:
        folder: where; it need not exist.
        below: look into the folders below, too.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(PART_PREFIX):
                with contextlib.suppress(OSError):
                    _sweep_part(Path(place, name))
        if not below:
            break


def _sweep_part(part: Path) -> None:
    age = time.time() - part.lstat().st_mtime
    try:
        if age > SETTLED_SECONDS:
            with held(part) as free:
                if free:
                    part.unlink()
    except OSError:
        if age > _LEFTOVER_AGE:
            part.unlink()


def _create_part(folder: Path) -> tuple[BinaryIO, Path]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    for attempt in range(5):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{PART_PREFIX}{secrets.token_hex(8)}"
        try:
            return os.fdopen(os.open(part, flags, 0o666), "wb"), part  # the umask applies
        except FileNotFoundError:
            if attempt == 4:
                raise
            # Another process removed the folder, empty until now, in between: make it again.
    raise AssertionError("unreachable")


def _link(part: Path, path: Path) -> bool:
    """Give the file its name unless it is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return _link_under_lock(part, path)  # no hard links here (exFAT, some network drives)
    return True


def _link_under_lock(part: Path, path: Path) -> bool:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            return False
        part.replace(path)
        return True
    finally:
        os.close(folder)


def _sync_folder(folder: Path) -> None:
    """Let the new name reach the disk as well; some file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

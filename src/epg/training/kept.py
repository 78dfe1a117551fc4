"""Which checkpoints a training stage has, whether they can be used, and which of them may go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from epg.documents import DocumentError
from epg.store.base import ObjectNotFound, Store
from epg.store.digest import stream_sha256
from epg.store.reading import read_document
from epg.training.checkpoint_format import FOLDER, MANIFEST, manifest_of, remove, step_of

_TORN = "not whole: a save that was interrupted, or goes on"


@dataclass(frozen=True)
class Kept:
    """One folder of a stage's checkpoints.

    Attributes:
        folder: its name.
        step: steps done.
        size: bytes of all its objects.
        fault: what is wrong with it; None: nothing that was looked at.
        torn: whether that is no damage: it was never whole, and nobody takes it for that.
    """

    folder: str
    step: int
    size: int
    fault: str | None
    torn: bool = False


def kept_checkpoints(
    store: Store, verify: bool, on_progress: Callable[[int, int], None] | None = None
) -> list[Kept]:
    """Return the checkpoints below a store's place, newest first.

    Args:
        store: where they lie, `<run>/<stage>/checkpoints`.
        verify: whether every byte is read and compared with its digest; else only that each
            manifest is sound and each of its files there.
        on_progress: called with (bytes read, bytes to read).
    """
    sizes: dict[str, dict[str, int]] = {}
    for info in store.list():
        if match := FOLDER.match(info.key):
            name = info.key.removeprefix(match[0])
            sizes.setdefault(match[1], {})[name] = info.size
    total = sum(sum(of.values()) for of in sizes.values())
    found, done = [], 0
    for folder in sorted(sizes, reverse=True):
        torn = MANIFEST not in sizes[folder]
        fault = _TORN if torn else next(_faults(store, folder, sizes[folder], verify), None)
        size = sum(sizes[folder].values())
        done += size
        if on_progress:
            on_progress(done, total)
        found.append(Kept(folder, step_of(folder), size, fault, torn))
    return found


def prune(store: Store, found: list[Kept], keep: int) -> list[Kept]:
    """Remove all but the newest `keep` that can be used, and return what was removed.

    Where none can be used and some are to be kept, damaged ones stay: a copy may mend them.

    Args:
        store: where they lie; nobody else writes there.
        found: all of them, newest first, as `kept_checkpoints` has verified them.
        keep: how many stay; 0: none.
    """
    stay = [kept for kept in found if kept.fault is None][:keep]
    if keep and not stay:
        stay = [kept for kept in found if not kept.torn]
    gone = [kept for kept in found if kept not in stay]
    for kept in gone:
        remove(store, kept.folder)
    return gone


def _faults(store: Store, folder: str, sizes: dict[str, int], verify: bool) -> Iterator[str]:
    try:
        manifest: dict[str, Any] = read_document(store, f"{folder}/{MANIFEST}", manifest_of(folder))
    except (DocumentError, ObjectNotFound) as error:
        yield str(error)
        return
    for name, digest in manifest["files"].items():
        if name not in sizes:
            yield f"{name} is gone"
        elif verify:
            with store.open(f"{folder}/{name}") as stream:
                read = stream_sha256(stream)
            if read != digest:
                yield f"{name} has SHA-256 {read[:12]}..., expected {digest[:12]}..."

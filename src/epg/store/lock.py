"""One run of one name at a time.

On local files the kernel keeps the lock (flock): it is gone with the process, however that ends.
On S3 it is an object made by a conditional put and renewed every ten seconds; one that was not
renewed for a minute, or whose process on this very machine is dead, is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

from epg.errors import UserError
from epg.store.base import ObjectExists, ObjectNotFound, Store
from epg.store.files import explained
from epg.store.holder import Holder
from epg.store.local import LocalStore

logger = logging.getLogger("epg.store")

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
#: A holder that looks stale is watched this long: its clock may be wrong, not its heart.
WATCH_SECONDS = 15.0


class RunLock:
    """Context manager that keeps a second process out.

    Args:
        store: where the lock lies, usually the run's store.
        key: key of the lock, such as `lock`.
        owner: who asks, as others are to read it, such as `epg run --run-name digits`.

    Raises:
        UserError: at entry, one line that says who holds the lock since when.
    """

    def __init__(self, store: Store, key: str, owner: str) -> None:
        """Prepare; the lock is taken at entry."""
        self._lock: _Lock
        if isinstance(store, LocalStore):
            self._lock = _FileLock(store, key, owner)
        else:
            self._lock = _ObjectLock(store, key, owner)

    def __enter__(self) -> RunLock:
        """Take the lock, or say who holds it."""
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self._lock.release()

    def check(self) -> None:
        """Raise `UserError` when somebody else has taken the lock over in the meantime."""
        self._lock.check()


class _Lock(Protocol):
    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def check(self) -> None: ...


def _refusal(place: str, holder: Holder | None) -> UserError:
    who = f"by {holder}" if holder else "by another process"
    return UserError(
        f"{place} is in use {who}: wait until that ends, stop it, or choose another run name"
    )


class _FileLock:
    """A lock on an open file; the file tells others who holds it."""

    def __init__(self, store: LocalStore, key: str, owner: str) -> None:
        self._store, self._key, self._owner = store, key, owner
        self._path = store.path(key)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        with explained(self._path, "lock"):
            descriptor = self._open_locked()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, Holder.here(self._owner).to_json(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            self._store.delete(self._key)  # while it is still ours
            os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        assert self._descriptor is not None, "the lock is not taken"

    def _open_locked(self) -> int:
        while True:
            descriptor = _open(self._path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = Holder.from_json(os.pread(descriptor, 10_000, 0))
                os.close(descriptor)
                raise _refusal(self._store.uri, holder) from None
            except BaseException:
                os.close(descriptor)
                raise
            # The holder before us removes the file: a lock on that one would keep nobody out.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                    return descriptor
            os.close(descriptor)


def _open(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the last holder has just removed the folder, empty then
            continue


class _ObjectLock:
    """An object that its holder renews."""

    def __init__(self, store: Store, key: str, owner: str) -> None:
        self._store, self._key, self._owner = store, key, owner
        self._holder: Holder | None = None
        self._taken_by: Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        mine = Holder.here(self._owner)
        try:
            self._store.put_bytes(self._key, mine.to_json(), if_absent=True)
        except ObjectExists:
            self._take_over(mine)
        self._holder = mine
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="epg-run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._stop.set()
        if self._thread is None or self._holder is None:
            return
        self._thread.join(timeout=5.0)
        if not self._thread.is_alive():  # else it may still write: let the lock go stale
            try:
                current = self._read()
                if current is not None and current.token == self._holder.token:
                    self._store.delete(self._key)
            except UserError as error:
                # The work is done; others take over what is left of the lock in a minute.
                logger.warning("the lock could not be given back: %s", error)
        self._holder = None

    def check(self) -> None:
        if self._taken_by is not None:
            raise _refusal(self._store.uri, self._taken_by)

    def _read(self) -> Holder | None:
        try:
            return Holder.from_json(self._store.get_bytes(self._key))
        except ObjectNotFound:
            return None

    def _take_over(self, mine: Holder) -> None:
        """Replace a holder that is gone; of several that try, one succeeds."""
        found = self._read()
        if found is None:  # given back just now
            try:
                self._store.put_bytes(self._key, mine.to_json(), if_absent=True)
                return
            except ObjectExists:
                raise _refusal(self._store.uri, self._read()) from None
        if not self._is_gone(found):
            raise _refusal(self._store.uri, found)
        claim = f"{self._key}.taken-over-{found.token}"
        try:
            self._store.put_bytes(claim, mine.to_json(), if_absent=True)
        except ObjectExists:
            self._drop_dead_claim(claim)
            raise _refusal(self._store.uri, self._read() or found) from None
        try:
            # Whoever took over the same holder before us has written the lock before it
            # removed its claim, so this look decides.
            current = self._read()
            if current is None or current.token != found.token:
                raise _refusal(self._store.uri, current)
            self._store.put_bytes(self._key, mine.to_json())
        finally:
            self._store.delete(claim)

    def _drop_dead_claim(self, claim: str) -> None:
        """Remove the claim of one that died while it took over, so that the next try succeeds."""
        try:
            claimant = Holder.from_json(self._store.get_bytes(claim))
        except ObjectNotFound:
            return
        if claimant is None or claimant.has_ended() or _is_stale(claimant):
            self._store.delete(claim)

    def _is_gone(self, holder: Holder) -> bool:
        if holder.has_ended():
            return True
        if not _is_stale(holder):
            return False
        # By our clock it is stale. Its clock may differ: a living holder renews while we watch.
        end = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH_SECONDS / 10))
            current = self._read()
            if current is None:
                return True
            if current.heartbeat != holder.heartbeat or current.token != holder.token:
                return False
        return True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            assert self._holder is not None
            try:
                current = self._read()
                if current is None or current.token != self._holder.token:
                    self._taken_by = current or self._holder
                    logger.error("the lock on %s was taken over by %s", self._store.uri, current)
                    return
                self._holder = self._holder.renewed()
                if not self._stop.is_set():
                    self._store.put_bytes(self._key, self._holder.to_json())
            except UserError as error:  # the store is away: the next beat may reach it
                logger.warning("the run's lock could not be renewed: %s", error)


def _is_stale(holder: Holder) -> bool:
    return abs(time.time() - holder.heartbeat) > STALE_SECONDS

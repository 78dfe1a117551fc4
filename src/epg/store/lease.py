"""One holder at a time, on any store, for processes of one machine and for pods of many.

A lease is an object that a conditional put made and that its holder renews. A holder known to be
dead on this very machine is replaced at once. One of another machine or pod is watched: replaced
when it renewed nothing for a minute by our clock, respected as soon as it does. Clocks of two
machines are never compared.

To replace a holder takes a claim, an object named after it: conditional put gives it to one. Claims
go only after the lease has changed hands, which a later claimant then sees. A claimant that died is
replaced as a holder is, by a claim on it. A holder that wakes after its minute looks at the lease
before it writes; a renewal that was on its way may win the lease back, and the other one notices
at its next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from epg.documents import parse_object, sealed, unseal
from epg.errors import UserError, one_line
from epg.machine import process_space, process_started
from epg.store.base import ObjectExists, ObjectNotFound, Store
from epg.text import printable

logger = logging.getLogger("epg.store")

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_MAX_BYTES = 10_000
_FRESH_BEATS = 2.5  # a renewal this many beats ago is believed without another look
_LOOKS = 4  # at an object that cannot be read, before it is taken for garbage
_TRIES = 10  # at a lease that others give back and take again meanwhile


class InUse(UserError):  # noqa: N818 - says what it is
    """Somebody else is at it: nothing is wrong with the work, and nothing of it is ours to say."""


@dataclass(frozen=True)
class Holder:
    """One process that holds (or held) a lease; the defaults are what is told of garbage."""

    owner: str = "another process"
    host: str = "unknown"
    pid: int = 0
    process_started: float | None = None  # None: cannot be compared, as what version 0.1 wrote
    process_space: str = ""
    since: float = 0.0  # seconds since 1970, to be shown only
    beat: int = 0  # another one after every renewal
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def here(cls, owner: str) -> Holder:
        """Describe this process, now."""
        pid = os.getpid()
        started, space = process_started(pid), process_space()
        return cls(owner, socket.gethostname(), pid, started, space, time.time())

    @classmethod
    def from_json(cls, data: bytes) -> Holder | None:
        """Read a holder, also one that version 0.1 wrote; None from anything else."""
        try:
            content = parse_object(data, max_bytes=_MAX_BYTES)
            # Version 0.1 wrote a heartbeat, and no seal.
            raw = unseal(content, required="heartbeat" not in content)
            started = raw["process_started"]
            holder = cls(
                owner=_line(raw["owner"]),
                host=_line(raw["host"]),
                pid=int(raw["pid"]),
                process_started=float(started) if isinstance(started, int | float) else None,
                process_space=str(raw["process_space"]),
                since=float(raw["since"]),
                beat=int(raw["beat"] if "beat" in raw else raw["heartbeat"]),
                token=re.fullmatch("[0-9a-f]{32}", raw["token"])[0],  # type: ignore[index]
            )
            str(holder)  # `since` may be no time that there is
        except (ValueError, TypeError, LookupError, OverflowError, OSError):
            return None
        return holder

    def to_json(self) -> bytes:
        """Return the holder as JSON, which `from_json` reads back."""
        return json.dumps(sealed(asdict(self))).encode()

    def is_alive(self) -> bool | None:
        """Tell whether the process lives; None where that cannot be known from here."""
        if self.host != socket.gethostname() or self.process_space != process_space():
            return None
        started = process_started(self.pid)
        if started is None:
            return False
        return None if self.process_started is None else started == self.process_started

    def __str__(self) -> str:
        """Who and since when, for a message."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.owner} (host {self.host}, process {self.pid}) since {since}"


class Lease:
    """Context manager that keeps others out while it is held.

    Args:
        store: where the lease lies, usually the run's store.
        key: key of the lease, such as `lock`.
        owner: who asks, as others are to read it, such as `epg run --run-name digits`.

    Raises:
        InUse: at entry, one line that says who holds it since when.
    """

    def __init__(self, store: Store, key: str, owner: str) -> None:
        """Prepare; the lease is taken at entry."""
        self._store, self._key, self._owner = store, key, owner
        self._lost: InUse | None = None
        self._renewing = threading.Lock()

    def __enter__(self) -> Lease:
        """Take the lease, or say who holds it."""
        self._holder = Holder.here(self._owner)
        self._take()
        self._renewed = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="epg-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back; others take over what cannot be given back."""
        self._stop.set()
        self._thread.join(timeout=5.0)
        if self._thread.is_alive():  # it may still write
            return
        with contextlib.suppress(UserError):  # the store is away, but the work is done
            found = _read(self._store, self._key)
            if found is not None and found.token == self._holder.token:
                self._store.delete(self._key)

    def check(self) -> None:
        """Raise `InUse` when the lease is known to be lost; costs nothing."""
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Make sure that the lease is ours, as before a write.

        Who slept, or could not reach the store, has not renewed it for a while: it looks first.

        Raises:
            InUse: the lease is lost.
            UserError: the store cannot be asked.
        """
        self.check()
        if time.monotonic() - self._renewed > _FRESH_BEATS * HEARTBEAT_SECONDS:
            self._renew_once()
            self.check()

    def _take(self) -> None:
        for _ in range(_TRIES):
            if self._create(self._key):
                return
            found = _read(self._store, self._key)
            if found is not None:  # else it was given back just now
                self._refuse_if_alive(self._key, found)
                if self._replace(found):
                    return
        raise UserError(f"{self._store.uri} is taken and given back all the time: try again")

    def _create(self, key: str) -> bool:
        try:
            self._store.put_bytes(key, self._holder.to_json(), if_absent=True)
        except ObjectExists:
            return False
        return True

    def _replace(self, gone: Holder) -> bool:
        """Write the lease of a holder that is gone; False when somebody else has done so."""
        claims = [f"{self._key}.taken-over-{gone.token}"]
        while not self._create(claims[-1]):
            claimant = _read(self._store, claims[-1])
            if claimant is None:
                return False
            self._refuse_if_alive(claims[-1], claimant)
            claims.append(f"{self._key}.taken-over-{claimant.token}")
        found = _read(self._store, self._key)
        ours = found is not None and found.token == gone.token
        if ours:
            self._store.put_bytes(self._key, self._holder.to_json())
        for claim in claims:
            self._store.delete(claim)
        return ours

    def _refuse_if_alive(self, key: str, holder: Holder) -> None:
        """Raise `UserError` for a holder that lives; watch one of which nothing is known."""
        alive, end = holder.is_alive(), time.monotonic() + STALE_SECONDS
        if alive is None:
            logger.warning("%s: is %s still there? Seen within a minute", self._store.uri, holder)
        while alive is None and time.monotonic() < end:
            time.sleep(min(1.0, STALE_SECONDS / 10))
            current = _read(self._store, key)
            if current is None:
                return
            if (current.token, current.beat) != (holder.token, holder.beat):
                holder, alive = current, True
        if alive:
            raise self._refusal(holder)

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(UserError):  # the store is away: the next beat may reach it
                self._renew_once()
            if self._lost is not None:
                return

    def _renew_once(self) -> None:
        with self._renewing:
            if self._lost is not None:
                return
            found = _read(self._store, self._key)
            if found is None or found.token != self._holder.token:
                self._lost = self._refusal(found)
                return
            self._holder = replace(self._holder, beat=self._holder.beat + 1)
            self._store.put_bytes(self._key, self._holder.to_json())
            self._renewed = time.monotonic()

    def _refusal(self, holder: Holder | None) -> InUse:
        if holder is None:
            return InUse(
                f"{self._store.uri}: {self._key}, which keeps others out, was removed: make sure "
                "that nothing else works there, then give the same command again"
            )
        return InUse(
            f"{self._store.uri} is in use by {holder}: wait until that ends, stop it, or choose "
            "another run name"
        )


class Watch:
    """Looks from time to time whether leases are held, and takes none.

    Args:
        store: where the leases lie.
    """

    def __init__(self, store: Store) -> None:
        """Begin with nothing seen."""
        self._store = store
        self._seen: dict[str, tuple[tuple[str, int], float]] = {}

    def held(self, key: str) -> bool:
        """Tell whether somebody holds a lease; of who is gone that is known a minute later."""
        holder = _read(self._store, key)
        if holder is None:
            return False
        alive = holder.is_alive()
        if alive is not None:
            return alive
        mark, now = (holder.token, holder.beat), time.monotonic()
        if key not in self._seen or self._seen[key][0] != mark:
            self._seen[key] = (mark, now)
        return now - self._seen[key][1] < STALE_SECONDS


def _read(store: Store, key: str) -> Holder | None:
    """Return who holds an object; None where there is none."""
    for look in range(_LOOKS):
        time.sleep(0.1 * look)
        try:
            data = store.get_bytes(key)
        except ObjectNotFound:
            return None
        holder = Holder.from_json(data)
        if holder is not None:
            return holder
    return Holder(token=hashlib.sha256(data).hexdigest()[:32])


def _line(text: object) -> str:
    return printable(one_line(text))[:200]

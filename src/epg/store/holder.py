"""Who holds a lock: a process on a machine, and whether it still lives."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """One process that holds (or held) a lock; times are seconds since 1970."""

    owner: str
    host: str
    pid: int
    process_started: str  # tells a process from a later one with the same id
    process_space: str  # ids mean something only within one boot and one pid namespace
    since: float
    heartbeat: float
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def here(cls, owner: str) -> Holder:
        """Describe this process, now."""
        pid, now = os.getpid(), time.time()
        return cls(owner, socket.gethostname(), pid, process_start(pid), process_space(), now, now)

    @classmethod
    def from_json(cls, data: bytes) -> Holder | None:
        """Read a holder, or None from what is none (an unfinished or foreign file)."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> bytes:
        """Return the holder as JSON, which `from_json` reads back."""
        return json.dumps(asdict(self)).encode()

    def renewed(self) -> Holder:
        """Return the same holder with its heartbeat now."""
        return replace(self, heartbeat=time.time())

    def has_ended(self) -> bool:
        """Tell whether the process is known to be gone; False where that cannot be known."""
        if self.host != socket.gethostname() or self.process_space != process_space():
            return False
        return process_start(self.pid) != self.process_started

    def __str__(self) -> str:
        """Who and since when, for a message."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.owner} (host {self.host}, process {self.pid}) since {since}"


def process_start(pid: int) -> str:
    """Return when a process began, in its system's own words, or "" when there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _running_without_proc(pid)
    fields = status.rpartition(")")[2].split()  # the name before it may hold anything
    state, started = fields[0], fields[19]
    return "" if state in ("Z", "X") else started  # a zombie holds nothing any more


def process_space() -> str:
    """Return an identity of this boot and pid namespace, where the system tells it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _running_without_proc(pid: int) -> str:
    """Without /proc (macOS) a process either runs or not; its start stays unknown."""
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"

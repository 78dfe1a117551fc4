"""How long bytes may take: a transfer that only drips ends by the deadline of its operation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from urllib3 import BaseHTTPResponse
from urllib3 import exceptions as http_errors

SLOWEST = 4096  # bytes per second, on top of the deadline: the slowest line that is waited for
_PIECE = 1 << 20  # bytes per read at most
_SENT = 1 << 16  # bytes per send: each has the socket's timeout to itself
# A server sends 64 KiB at a time: to read each at once costs a sixth more than to let a few gather.
# A line that gives no more than a piece of TLS (16 KiB) is slow, or can give no more.
_LITTLE, _MUCH = 32 << 10, 512 << 10  # bytes
_NAP = 400e-6  # seconds, in which the kernel gathers what comes


class TooSlowError(http_errors.HTTPError):
    """Bytes come or go so slowly that nobody waits for the rest."""


class TooLargeError(http_errors.HTTPError):
    """An answer has more bytes than anybody needs."""


class Pace:
    """The time that one operation has spent on the network, and what it got for it.

    Use as a context manager around each wait; time outside of it is the caller's own.
    """

    def __init__(self, deadline: float) -> None:
        """Allow `deadline` seconds, and what the bytes take at the slowest pace."""
        self._deadline = deadline
        self._spent = 0.0
        self._moved = 0
        self._begun = 0.0

    def __enter__(self) -> Pace:
        self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._spent += time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds that may still be waited for a byte."""
        return self._deadline + self._moved / SLOWEST - self._spent

    def moved(self, count: int) -> None:
        """Count bytes that came or went.

        Raises:
            TooSlowError: they took too long.
        """
        self._moved += count
        if self.left < 0:
            raise TooSlowError(f"{self._moved} bytes in {self._spent:.0f} s")


def received(response: BaseHTTPResponse, pace: Pace) -> Iterator[bytes]:
    """Yield a body as it comes, in pieces of at most 1 MiB.

    Raises:
        TooSlowError: see `Pace`.
        urllib3.exceptions.HTTPError: the connection broke, or the body was cut short.
    """
    coded = "content-encoding" in response.headers  # else no decoder need look at it: two copies
    while True:
        with pace:
            # Whatever is there: a read that wants a whole piece waits for the last drip of it.
            piece = response.read1(_PIECE, decode_content=coded)
        if not piece:
            return
        yield piece
        pace.moved(len(piece))
        if _LITTLE < len(piece) < _MUCH < (response.length_remaining or 0):
            time.sleep(_NAP)


def collected(response: BaseHTTPResponse, pace: Pace, largest: int) -> bytes:
    """Return a whole body of at most `largest` bytes; the connection is closed where it has more.

    Raises:
        TooLargeError: it has more.
        TooSlowError, urllib3.exceptions.HTTPError: see `received`.
    """
    pieces, size = [], 0
    try:
        for piece in received(response, pace):
            size += len(piece)
            if size > largest:
                raise TooLargeError(f"an answer of more than {largest:,} bytes")
            pieces.append(piece)
    except BaseException:
        response.close()
        raise
    response.release_conn()
    return b"".join(pieces)


def sent(body: bytes, pace: Pace) -> Iterator[memoryview]:
    """Yield a body in slices, for a peer that may take them slowly.

    Raises:
        TooSlowError: see `Pace`.
    """
    view = memoryview(body)
    for start in range(0, len(view), _SENT):
        part = view[start : start + _SENT]
        with pace:  # the time until the next slice is wanted
            yield part
        pace.moved(len(part))

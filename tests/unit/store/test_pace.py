"""One deadline for an operation, on its bytes, too; the reader's own time is not counted."""

from __future__ import annotations

import io

import pytest
import urllib3

from epg.store import pace
from epg.store.pace import SLOWEST, Pace, TooLargeError, TooSlowError, collected, received, sent


class Clock:
    """Goes on as it is told."""

    def __init__(self) -> None:
        self.now, self.naps = 100.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.naps += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


class Drip(io.BytesIO):
    """A body of which each read gives a few bytes after some seconds."""

    def __init__(self, clock: Clock, seconds: float, count: int, size: int) -> None:
        super().__init__(bytes(size))
        self.clock, self.seconds, self.count = clock, seconds, count

    def read1(self, _: int | None = None, decode_content: bool = True) -> bytes:
        self.clock.now += self.seconds
        return super().read(self.count)


def body(clock: Clock, seconds: float, count: int, size: int = 10**6) -> urllib3.HTTPResponse:
    drip = Drip(clock, seconds, count, size)
    response = urllib3.HTTPResponse(drip, preload_content=False)
    response.read1 = drip.read1  # type: ignore[method-assign, assignment]
    return response


def test_a_byte_every_five_seconds_ends_by_the_deadline(clock: Clock) -> None:
    with pytest.raises(TooSlowError, match="in 125 s"):
        list(received(body(clock, 5.0, 1), Pace(120.0)))
    assert clock.now == 225.0


def test_a_slow_line_is_waited_for(clock: Clock) -> None:
    found = b"".join(received(body(clock, 1.0, 2 * SLOWEST), Pace(2.0)))
    assert len(found) == 10**6


def test_the_readers_own_time_is_free(clock: Clock) -> None:
    """A training reads a shard over minutes."""
    size = 0
    for piece in received(body(clock, 0.5, 100_000), Pace(10.0)):
        clock.now += 3600.0
        size += len(piece)
    assert size == 10**6


def test_a_peer_that_takes_bytes_slowly_is_not_waited_for(clock: Clock) -> None:
    slowly = sent(bytes(10**7), Pace(60.0))
    next(slowly)
    clock.now += 100.0
    with pytest.raises(TooSlowError, match="in 100 s"):
        next(slowly)


def test_an_answer_without_an_end_is_not_kept(clock: Clock) -> None:
    with pytest.raises(TooLargeError, match="more than 300,000 bytes"):
        collected(body(clock, 0.0, 1000), Pace(10.0), 300_000)
    assert collected(body(clock, 0.0, 1000), Pace(10.0), 10**6) == bytes(10**6)


@pytest.mark.parametrize(
    ("at_a_time", "size", "naps"),
    [
        (64 << 10, 1 << 20, 7),  # until half a MiB is left
        (64 << 10, 512 << 10, 0),  # soon over
        (16 << 10, 1 << 20, 0),  # a piece of TLS, or a slow line
        (512 << 10, 4 << 20, 0),
    ],
)
def test_a_fast_line_is_let_gather_more(clock: Clock, at_a_time: int, size: int, naps: int) -> None:
    class Line(io.BytesIO):
        def read1(self, amount: int | None = -1, /) -> bytes:
            assert amount is not None
            return super().read1(min(amount, at_a_time))

    headers = {"content-length": str(size)}
    response = urllib3.HTTPResponse(Line(bytes(size)), headers=headers, preload_content=False)
    assert len(b"".join(received(response, Pace(10.0)))) == size
    assert clock.naps == naps

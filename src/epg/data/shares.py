"""A set of shards that several processes write at a time: who takes which shard, and when.

A part is a stretch of shards, as many as in any other: neighbours may be made of the same blocks of
a source, which are read once then. The last part is that of the process that gathers them all: when
its own are there it takes whatever nobody is at, and waits for the others. So a process that never
came, or died, costs no more than its share of the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from epg.data.shard_plan import PlannedShard

_PAUSE = 5.0  # seconds between two looks at shards that others are writing


class Others(Protocol):
    """The processes that write the parts before the last."""

    parts: int  # into how many the set is divided, ours included

    def at_work(self, part: int) -> bool:
        """Tell whether somebody is at a part, from 0, now."""


class Nobody:
    """One process writes the whole set."""

    parts = 1

    def at_work(self, part: int) -> bool:
        """Nobody is."""
        return False


def part_of(shards: Sequence[PlannedShard], part: int, parts: int) -> list[PlannedShard]:
    """Return the shards of a part, from 0."""
    return list(shards[len(shards) * part // parts : len(shards) * (part + 1) // parts])


def in_turn(
    shards: Sequence[PlannedShard],
    others: Others,
    there: Callable[[], Collection[PlannedShard]],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[PlannedShard]:
    """Yield every shard once, when it is there or ours to write.

    Args:
        shards: of the whole set.
        others: who else writes; asked every few seconds, as is `there`.
        there: returns which shards are finished.
        clock: tells the time in seconds.
        pause: waits some seconds.
    """
    parts = others.parts
    yield from part_of(shards, parts - 1, parts)
    left = {shard: part for part in range(parts - 1) for shard in part_of(shards, part, parts)}
    busy: set[int] = set()
    looks = clock()
    while left:
        if clock() >= looks:
            looks = clock() + _PAUSE
            for shard in [shard for shard in there() if shard in left]:
                del left[shard]
                yield shard
            busy = {part for part in set(left.values()) if others.at_work(part)}
        # From the end: who comes late begins at the front.
        free = next((shard for shard, part in reversed(left.items()) if part not in busy), None)
        if free is not None:
            del left[free]
            yield free
        elif left:
            pause(max(0.0, looks - clock()))

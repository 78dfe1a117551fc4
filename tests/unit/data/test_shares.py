from __future__ import annotations

import numpy as np
import pytest

from epg.data.shard_plan import PlannedShard
from epg.data.shares import Nobody, in_turn, part_of

SHARDS = [PlannedShard("train", number, np.arange(2)) for number in range(8)]


class Pods:
    """Other pods: each is at work for some looks and writes a shard of its part at each."""

    parts = 3

    def __init__(self, looks: dict[int, int]) -> None:
        self.looks, self.written = looks, list[PlannedShard]()
        self.pauses, self.time, self.asked = 0, 100.0, 0

    def at_work(self, part: int) -> bool:
        return self.looks.get(part, 0) > 0

    def there(self) -> list[PlannedShard]:
        self.asked += 1
        return self.written

    def clock(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.time += seconds
        for part in [part for part, left in self.looks.items() if left > 0]:
            self.looks[part] -= 1
            todo = [
                shard for shard in part_of(SHARDS, part, self.parts) if shard not in self.written
            ]
            self.written += todo[:1]


def numbers(pods: Pods) -> list[int]:
    return [shard.number for shard in in_turn(SHARDS, pods, pods.there, pods.clock, pods.pause)]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 8, 9])
def test_parts_are_stretches_that_make_up_the_whole(parts):
    found = [part_of(SHARDS, part, parts) for part in range(parts)]
    assert [shard for part in found for shard in part] == SHARDS
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_one_process_writes_all_in_order():
    assert list(in_turn(SHARDS, Nobody(), lambda: pytest.fail("nobody is asked"))) == SHARDS


def test_where_nobody_comes_the_own_part_is_first_and_then_the_last_shards():
    pods = Pods({})
    assert numbers(pods) == [5, 6, 7, 4, 3, 2, 1, 0]
    assert (pods.pauses, pods.asked) == (0, 1)


def test_others_are_waited_for():
    pods = Pods({0: 3, 1: 3})
    assert numbers(pods) == [5, 6, 7, 0, 2, 1, 3, 4]
    assert [shard.number for shard in pods.written] == [0, 2, 1, 3, 4]


def test_what_a_pod_has_left_behind_is_taken():
    pods = Pods({0: 1})
    assert numbers(pods) == [5, 6, 7, 4, 3, 2, 0, 1]
    assert pods.written == [SHARDS[0]]


def test_whoever_comes_late_is_noticed_after_a_few_seconds():
    pods, found = Pods({}), []
    for shard in in_turn(SHARDS, pods, pods.there, pods.clock, pods.pause):
        found.append(shard.number)
        pods.time += 2.0  # to write it
        if shard.number == 4:
            pods.looks = {0: 9, 1: 9}
    assert found == [5, 6, 7, 4, 3, 2, 0, 1]
    assert pods.pauses > 0


def test_what_is_there_already_is_looked_at_and_waited_for_by_nobody():
    pods = Pods({0: 100, 1: 100})
    pods.written = list(SHARDS)
    assert sorted(numbers(pods)) == list(range(8))
    assert pods.pauses == 0

"""Death at every write of a checkpoint and of a registration: nothing half is taken for whole.

A killed process does no more; what it had written is there, what it was about to write is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from epg.registry import open_registry
from epg.store import Store, open_store
from epg.store.local import LocalStore
from epg.training.checkpoints import Checkpoints
from epg.training.keeper import Checkpoint

WRITES = ("put_bytes", "put_file", "delete", "clear")


class Killed(BaseException):
    """What a `kill -9` is to the code that it meets."""


class Dying(LocalStore):
    """Dies before its n-th write, or right after it; counts them all."""

    left, after = -1, False
    writes = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return _dying(found) if name in WRITES else found


def _dying(write: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        Dying.writes += 1
        Dying.left -= 1
        if Dying.left < 0 and not Dying.after:
            raise Killed
        result = write(*arguments, **options)
        if Dying.left < 0:
            raise Killed
        return result

    return call


def deaths(work: Callable[[int], None]) -> Iterator[int]:
    """Let `work` die at each of its writes in turn; yield the number of the attempt."""
    Dying.after, Dying.left, Dying.writes = False, 10**6, 0
    work(0)
    for number in range(2 * Dying.writes):
        Dying.left, Dying.after = number // 2, bool(number % 2)
        with pytest.raises(Killed):
            work(number + 1)
        Dying.left = 10**6
        yield number + 1


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), value), "v": torch.full((2, 2), value)}


def checkpoints(store: Store, folder: Path) -> Checkpoints:
    return Checkpoints(store, {}, {}, folder, file_bytes=8)  # several files each


def restored(root: Path, number: int) -> tuple[Checkpoint | None, dict[str, torch.Tensor]]:
    into = state(-1.0)
    store = open_store(str(root)).sub(str(number))
    return checkpoints(store, root).restore(lambda: into), into


def test_a_checkpoint_is_the_new_one_or_the_one_before(tmp_path: Path) -> None:
    def save(number: int) -> None:
        """The third of a training that keeps two: it sweeps one, too."""
        whole = checkpoints(open_store(str(tmp_path)).sub(str(number)), tmp_path)
        for step in (1, 2):
            whole.save(step, state(step), [{"step": step}])
        checkpoints(Dying(tmp_path, str(number)), tmp_path).save(3, state(3), [{"step": 3}])

    seen = set()
    for number in deaths(save):
        found, tensors = restored(tmp_path, number)
        assert found is not None
        assert found.series == [{"step": found.step}]
        assert all(torch.equal(tensors[name], kept) for name, kept in state(found.step).items())
        seen.add(found.step)

        checkpoints(open_store(str(tmp_path)).sub(str(number)), tmp_path).save(4, state(4), [])
        found, tensors = restored(tmp_path, number)
        assert found is not None
        assert found.step == 4
        assert len(list((tmp_path / str(number)).iterdir())) == 2, "what was torn is swept"
    assert seen == {2, 3}


def test_a_registration_is_whole_or_finished_by_the_next(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")

    def register(store: Store) -> Any:
        return open_registry(store).register(
            "digits-denoising", weights, recipe_yaml="a: 1\n", metrics={"fid": 2.0}, card="# Card\n"
        )

    whole = 0
    for number in deaths(lambda number: register(Dying(tmp_path, str(number)))):
        store = open_store(str(tmp_path)).sub(str(number))
        seen = open_registry(store).list()
        whole += len(seen)
        for entry in seen:
            open_registry(store).fetch(f"{entry.model}:{entry.version}", tmp_path)
        done = register(store)
        assert (done.version, done.created) == ("v1", not seen)
        keys = {info.key.rpartition("/")[2] for info in store.list()}
        assert keys == {*done.files, "model.json"} | ({"claim.json"} & keys if seen else set())
        assert [e.digest for e in open_registry(store).list()] == [done.digest]
    assert whole

"""Checkpoints are whole or not there; damage and foreign settings are noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from epg.errors import UserError
from epg.store import open_store
from epg.training.checkpoints import Checkpoints

CONFIG = {"pretrain": {"learning_rate": 0.001}}
INPUTS = {"shards": "aa"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


def checkpoints(place: Path, warnings: list[str] | None = None, **changed: Any) -> Checkpoints:
    heard = warnings if warnings is not None else []
    return Checkpoints(
        open_store(str(place)),
        changed.get("config", CONFIG),
        changed.get("inputs", INPUTS),
        warn=heard.append,
    )


def save(place: Path, scratch: Path, step: int) -> None:
    tensors = {"w": torch.full((3,), float(step)), "n": torch.tensor(step)}
    checkpoints(place).save(step, tensors, [{"step": step, "loss": 0.1}], scratch)


def folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir())


def test_nothing_to_restore(place: Path) -> None:
    assert checkpoints(place).restore() is None


def test_newest_is_restored_exactly_and_two_are_kept(place: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(place, tmp_path, step)
    assert [int(f.name[5:14]) for f in folders(place)] == [2, 3]
    restored = checkpoints(place).restore()
    assert restored is not None
    assert restored.step == 3
    assert torch.equal(restored.tensors["w"], torch.full((3,), 3.0))
    assert restored.series == [{"step": 3, "loss": 0.1}]


@pytest.mark.parametrize("name", ["state.safetensors", "series.jsonl"])
def test_a_flipped_byte_is_noticed_and_the_one_before_is_used(
    place: Path, tmp_path: Path, name: str
) -> None:
    save(place, tmp_path, 1)
    save(place, tmp_path, 2)
    damaged = folders(place)[-1] / name
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    warnings: list[str] = []
    restored = checkpoints(place, warnings).restore()
    assert restored is not None
    assert restored.step == 1
    assert name in warnings[0]
    assert "SHA-256" in warnings[0]


def test_a_torn_folder_is_ignored_and_swept(place: Path, tmp_path: Path) -> None:
    save(place, tmp_path, 1)
    torn = place / "step-000000009.deadbeef"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    restored = checkpoints(place).restore()
    assert restored is not None
    assert restored.step == 1
    save(place, tmp_path, 10)
    assert not list(torn.glob("*"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 5}'])
def test_a_broken_manifest_falls_back(place: Path, tmp_path: Path, content: bytes) -> None:
    save(place, tmp_path, 1)
    save(place, tmp_path, 2)
    (folders(place)[-1] / "manifest.json").write_bytes(content)
    warnings: list[str] = []
    restored = checkpoints(place, warnings).restore()
    assert restored is not None
    assert restored.step == 1
    assert "unreadable" in warnings[0]


def test_another_recipes_checkpoint_is_refused_with_the_differing_keys(
    place: Path, tmp_path: Path
) -> None:
    save(place, tmp_path, 1)
    other = {"pretrain": {"learning_rate": 0.002}}
    with pytest.raises(UserError, match=r"pretrain.learning_rate: 0.001 -> 0.002"):
        checkpoints(place, config=other).restore()
    with pytest.raises(UserError, match="shards: 'aa' -> 'bb'"):
        checkpoints(place, inputs={"shards": "bb"}).restore()
    assert checkpoints(place).restore() is not None  # nothing good was lost


@pytest.mark.s3
def test_checkpoints_live_on_s3_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.s3_server import best_server

    with best_server() as server:
        server.set_environment(monkeypatch)
        server.make_bucket("epg-checkpoints")
        place = Checkpoints(open_store(server.store_uri("epg-checkpoints/run")), CONFIG, INPUTS)
        for step in (1, 2, 3):
            place.save(step, {"w": torch.full((2,), float(step))}, [], tmp_path)
        restored = place.restore()
        assert restored is not None
        assert restored.step == 3
        assert torch.equal(restored.tensors["w"], torch.full((2,), 3.0))

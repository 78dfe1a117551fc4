"""Checkpoints are whole or not there; damage and foreign settings are noticed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import Mock

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from epg.errors import UserError
from epg.store import Store, open_store
from epg.store.local import LocalStore
from epg.training.checkpoints import Checkpoints
from epg.training.keeper import Checkpoint
from epg.training.optimizer import optimizer_tensors

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
        place.parent,
        warn=heard.append,
        **({"file_bytes": changed["file_bytes"]} if "file_bytes" in changed else {}),
    )


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), value), "v": torch.full((2, 2), value), "n": torch.tensor(value)}


def save(place: Path, step: int, **changed: Any) -> None:
    checkpoints(place, **changed).save(step, state(step), [{"step": step, "loss": 0.1}])


def restore(
    place: Path, warnings: list[str] | None = None, **changed: Any
) -> tuple[Checkpoint | None, dict[str, torch.Tensor]]:
    into = state(-1.0)
    return checkpoints(place, warnings, **changed).restore(lambda: into), into


def folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir())


def test_nothing_to_restore(place: Path) -> None:
    assert restore(place)[0] is None


def test_newest_is_restored_exactly_and_two_are_kept(place: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(place, step)
    assert [int(f.name[5:14]) for f in folders(place)] == [2, 3]
    restored, into = restore(place)
    assert restored is not None
    assert restored.step == 3
    assert all(torch.equal(into[name], tensor) for name, tensor in state(3.0).items())
    assert restored.series == [{"step": 3, "loss": 0.1}]


@pytest.mark.parametrize("name", ["state-00000.safetensors", "series.jsonl"])
def test_a_flipped_byte_is_noticed_and_the_one_before_is_used(
    place: Path, tmp_path: Path, name: str
) -> None:
    save(place, 1)
    save(place, 2)
    damaged = folders(place)[-1] / name
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    warnings: list[str] = []
    restored, _ = restore(place, warnings)
    assert restored is not None
    assert restored.step == 1
    assert name in warnings[0]
    assert "SHA-256" in warnings[0]


def test_a_torn_folder_is_ignored_and_swept(place: Path, tmp_path: Path) -> None:
    save(place, 1)
    torn = place / "step-000000009.deadbeef"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    restored, _ = restore(place)
    assert restored is not None
    assert restored.step == 1
    save(place, 10)
    assert not list(torn.glob("*"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 5}'])
def test_a_broken_manifest_falls_back(place: Path, tmp_path: Path, content: bytes) -> None:
    save(place, 1)
    save(place, 2)
    (folders(place)[-1] / "manifest.json").write_bytes(content)
    warnings: list[str] = []
    restored, _ = restore(place, warnings)
    assert restored is not None
    assert restored.step == 1
    assert "trying the checkpoint before" in warnings[0]


def test_another_recipes_checkpoint_is_refused_with_the_differing_keys(
    place: Path, tmp_path: Path
) -> None:
    save(place, 1)
    other = {"pretrain": {"learning_rate": 0.002}}
    with pytest.raises(UserError, match=r"pretrain.learning_rate: 0.001 -> 0.002"):
        restore(place, config=other)
    with pytest.raises(UserError, match="shards: 'aa' -> 'bb'"):
        restore(place, inputs={"shards": "bb"})
    assert restore(place)[0] is not None  # nothing good was lost


def test_one_small_file_at_a_time_is_on_the_disk(place: Path, tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(7)}
    seen: list[list[int]] = []

    class Spy:
        """A store that looks at the scratch folder whenever a file comes or goes."""

        def __init__(self, store: Store) -> None:
            self.__dict__.update(store=store, uri=store.uri)

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                result = getattr(self.store, name)(*args, **kwargs)
                if name in ("put_file", "get_file"):
                    files = [p for p in tmp_path.iterdir() if p.is_file()]
                    seen.append([p.stat().st_size for p in files])
                return result

            return call

    place_ = Checkpoints(Spy(open_store(str(place))), CONFIG, INPUTS, tmp_path, file_bytes=1000)
    place_.save(1, tensors, [])
    into = {name: torch.zeros(100) for name in tensors}
    assert place_.restore(lambda: into) is not None
    assert len(seen) == 2 * 4  # two tensors of 400 bytes a file
    assert all(len(sizes) == 1 and sizes[0] < 1000 + 1000 for sizes in seen)
    assert all(torch.equal(into[name], tensor) for name, tensor in tensors.items())
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


@pytest.mark.parametrize("harm", ["alter", "remove"])
def test_nothing_of_a_half_damaged_checkpoint_is_used(
    place: Path, tmp_path: Path, harm: str
) -> None:
    save(place, 1, file_bytes=16)
    last = max(folders(place)[-1].glob("state-*"))
    assert last.name == "state-00002.safetensors"
    if harm == "alter":
        last.write_bytes(last.read_bytes()[:-1] + b"x")
    else:
        last.unlink()
    warnings: list[str] = []
    places = Mock(return_value={})
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used"):
        checkpoints(place, warnings).restore(places)
    places.assert_not_called()
    assert "trying the checkpoint before" in warnings[0]


def test_the_format_of_version_0_1_is_refused_with_what_to_do(place: Path) -> None:
    save(place, 1)
    manifest = folders(place)[0] / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["format"], content["seal"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"format 1, this one reads 2.*`--from STAGE`"):
        restore(place)


def damage(folder: Path) -> None:
    path = folder / "state-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def test_where_all_are_damaged_training_stops_and_names_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epg.training.checkpoints.PAUSE_SECONDS", 0.0)
    for step in (30, 40):
        save(place, step)
    for folder in folders(place):
        damage(folder)
    with pytest.raises(UserError, match=r"can be used .*; only `--from STAGE` begins") as caught:
        restore(place)
    assert all(folder.name in str(caught.value) for folder in folders(place))
    assert len(folders(place)) == 2, "nothing that a copy may mend is thrown away"


def test_damaged_ones_of_later_steps_do_not_outlive_good_ones(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epg.training.checkpoints.PAUSE_SECONDS", 0.0)
    for step in (10, 40):
        save(place, step)
    damage(folders(place)[-1])
    ours = checkpoints(place)
    restored = ours.restore(lambda: state(0.0))
    assert restored is not None
    assert restored.step == 10
    for step in (20, 30):
        ours.save(step, state(step), [])
    assert [int(f.name[5:14]) for f in folders(place)] == [20, 30]


def test_a_folder_of_another_step_than_its_manifest_is_damaged(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epg.store.reading.PAUSE_SECONDS", 0.0)
    save(place, 1)
    (folder,) = folders(place)
    folder.rename(place / folder.name.replace("step-000000001", "step-000000002"))
    with pytest.raises(UserError, match="its manifest is of step 1"):
        restore(place)


@pytest.mark.parametrize("name", ["manifest.json", "state-00000.safetensors", "series.jsonl"])
def test_one_bad_reading_of_a_good_object_is_not_believed(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in ("training.checkpoints", "store.reading"):
        monkeypatch.setattr(f"epg.{module}.PAUSE_SECONDS", 0.0)
    save(place, 1)
    read = LocalStore.open
    misread: list[str] = []

    def open_badly(store: LocalStore, key: str) -> BinaryIO:
        if key.endswith(name) and not misread:
            misread.append(key)
            return io.BytesIO(b"\x00" + store.path(key).read_bytes()[1:])
        return read(store, key)

    monkeypatch.setattr(LocalStore, "open", open_badly)
    warnings: list[str] = []
    restored, _ = restore(place, warnings)
    assert restored is not None
    assert misread
    assert warnings == []


def test_a_full_disk_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr("epg.model.files.save_file", full)
    with pytest.raises(UserError, match="no space left on the disk") as caught:
        save(place, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "into",
    [{"w": torch.zeros(3)}, state(0.0) | {"w": torch.zeros(1)}, state(0.0) | {"x": torch.zeros(1)}],
)
def test_tensors_of_another_program_are_refused(place: Path, into: dict[str, torch.Tensor]) -> None:
    save(place, 1)
    with pytest.raises(UserError, match="its tensors are not those of this version of epg"):
        checkpoints(place).restore(lambda: into)


def test_the_optimizers_tensors_are_its_own_and_named_by_parameter() -> None:
    network = nn.Linear(2, 1)
    groups: list[dict[str, Any]] = [{"params": [network.bias]}, {"params": [network.weight]}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    before = network.weight.detach().clone()
    tensors = optimizer_tensors(network, optimizer)
    entries = {"step", "exp_avg", "exp_avg_sq"}
    assert set(tensors) == {
        f"optimizer.state.{name}.{entry}" for name in ("weight", "bias") for entry in entries
    }
    assert torch.equal(network.weight, before)
    tensors["optimizer.state.weight.exp_avg"].fill_(7.0)
    assert float(optimizer.state[network.weight]["exp_avg"][0, 0]) == 7.0


@pytest.mark.s3
def test_checkpoints_live_on_s3_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.s3_server import best_server

    with best_server() as server:
        server.set_environment(monkeypatch)
        server.make_bucket("epg-checkpoints")
        store = open_store(server.store_uri("epg-checkpoints/run"))
        place = Checkpoints(store, CONFIG, INPUTS, tmp_path, file_bytes=16)
        for step in (1, 2, 3):
            place.save(step, state(step), [])
        into = state(-1.0)
        restored = place.restore(lambda: into)
        assert restored is not None
        assert restored.step == 3
        assert all(torch.equal(into[name], tensor) for name, tensor in state(3.0).items())

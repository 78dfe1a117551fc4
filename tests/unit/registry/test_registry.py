from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from epg.errors import UserError
from epg.registry import Registered, open_registry
from epg.registry.base import natural_order
from epg.registry.files import FileRegistry
from epg.store import Store, open_store
from tests.s3_server import moto_server

NAME = "digits-denoising"


@pytest.fixture(params=["local", pytest.param("moto", marks=pytest.mark.s3)])
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(str(tmp_path / "registry"))
        return
    with moto_server() as server:
        server.make_bucket("models")
        server.set_environment(monkeypatch)
        yield open_store("s3://models").sub(tmp_path.name)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "registry"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return make_weights(tmp_path, "first")


def make_weights(folder: Path, content: str) -> Path:
    path = folder / f"{content}.safetensors"
    path.write_text(content)
    return path


def put(registry: Store, weights: Path, model: str = NAME, **more: Any) -> Registered:
    return open_registry(registry).register(
        model,
        weights,
        recipe_yaml="name: digits\n",
        metrics={"svc_agreement": 0.95},
        card="# Card\n",
        **more,
    )


def test_everything_lies_there_and_model_json_describes_it(
    registry: Store, weights: Path, tmp_path: Path
) -> None:
    grid = tmp_path / "some-grid.png"
    grid.write_bytes(b"png")
    done = put(registry, weights, extra={"grid.png": grid})
    digest = hashlib.sha256(b"first").hexdigest()
    assert (done.model, done.version, done.digest, done.created) == (NAME, "v1", digest, True)
    assert done.uri == f"{registry.uri}/{NAME}/v1"
    assert sorted(info.key for info in registry.list()) == [
        f"{NAME}/v1/README.md",
        f"{NAME}/v1/grid.png",
        f"{NAME}/v1/metrics.json",
        f"{NAME}/v1/model.json",
        f"{NAME}/v1/model.safetensors",
        f"{NAME}/v1/recipe.yaml",
    ]
    entry = json.loads(registry.get_bytes(f"{NAME}/v1/model.json"))
    assert (entry["name"], entry["version"], entry["digest"]) == (NAME, "v1", digest)
    for name, described in entry["files"].items():
        data = registry.get_bytes(f"{NAME}/v1/{name}")
        assert described == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    assert len(entry["files"]) == 5


def test_same_digest_is_a_no_op_another_one_the_next_version(
    registry: Store, weights: Path, tmp_path: Path
) -> None:
    first = put(registry, weights)
    listing = [(info, registry.get_bytes(info.key)) for info in registry.list()]
    again = put(registry, weights)
    assert (again.version, again.created, again.time) == ("v1", False, first.time)
    assert [(info, registry.get_bytes(info.key)) for info in registry.list()] == listing
    other = put(registry, make_weights(tmp_path, "second"))
    assert (other.version, other.created) == ("v2", True)
    assert put(registry, weights).version == "v1"


def test_explicit_version(registry: Store, weights: Path, tmp_path: Path) -> None:
    assert put(registry, weights, version="v1.10").created
    assert not put(registry, weights, version="v1.10").created
    with pytest.raises(UserError, match=r"'v1.10' in .* has other weights .* a version never") as e:
        put(registry, make_weights(tmp_path, "second"), version="v1.10")
    assert "\n" not in str(e.value)
    assert registry.get_bytes(f"{NAME}/v1.10/model.safetensors") == b"first"


def test_broken_off_registration_is_finished(
    registry: Store, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, calls = FileRegistry._put, []

    def dies_at_the_third(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(FileRegistry, "_put", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        put(registry, weights)
    assert open_registry(registry).list() == []
    with pytest.raises(UserError, match="which is empty"):
        open_registry(registry).resolve(NAME)
    other = put(registry, make_weights(tmp_path, "second"))
    assert other.version == "v2", "a version that others began is left to them"
    done = put(registry, weights)
    assert (done.version, done.created) == ("v1", True)
    assert not [info for info in registry.list() if info.key.endswith("claim.json")]


def test_version_begun_with_other_weights_is_refused(local: Store, weights: Path) -> None:
    local.put_bytes(f"{NAME}/v1/claim.json", b'{"digest": "of others"}')
    with pytest.raises(UserError, match="is being registered with other weights, or that broke"):
        put(local, weights, version="v1")


def test_many_at_once_get_versions_of_their_own(registry: Store, tmp_path: Path) -> None:
    contents = ["a", "b", "c", "a"]
    start, done = threading.Barrier(4), []

    def one(number: int, path: Path) -> None:
        start.wait()
        done.append((contents[number], put(registry, path)))

    paths = [make_weights(tmp_path, content) for content in contents]
    threads = [threading.Thread(target=one, args=item) for item in enumerate(paths)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    for content, entry in done:
        assert registry.get_bytes(f"{NAME}/{entry.version}/model.safetensors").decode() == content
    by_version = {entry.version: content for content, entry in done}
    assert sorted(by_version.values()) in (["a", "b", "c"], ["a", "a", "b", "c"])


def test_stored_bytes_are_read_back(
    local: Store, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(local).put_file

    def altered(store: Any, key: str, path: Path) -> None:
        real(store, key, path)
        store.path(key).write_bytes(b"FIRST")

    monkeypatch.setattr(type(local), "put_file", altered)
    with pytest.raises(UserError, match="what was stored differs from what was sent"):
        put(local, weights)
    assert open_registry(local).list() == []


def test_resolve_and_fetch(registry: Store, weights: Path, tmp_path: Path) -> None:
    put(registry, weights)
    put(registry, make_weights(tmp_path, "second"))
    assert open_registry(registry).resolve(NAME).version == "v2", "the newest"
    assert open_registry(registry).resolve(f"{NAME}:v1").version == "v1"
    assert open_registry(registry).resolve(f"{NAME}:1").version == "v1", "what else"
    assert open_registry(registry).fetch(NAME, tmp_path / "got").read_text() == "second"
    assert open_registry(registry).fetch(f"{NAME}:v1", tmp_path / "got").read_text() == "first"


def test_altered_weights_are_not_used(local: Store, weights: Path, tmp_path: Path) -> None:
    put(local, weights)
    local.put_bytes(f"{NAME}/v1/model.safetensors", b"fIrst")
    with pytest.raises(UserError, match="the weights were altered; put back"):
        open_registry(local).fetch(NAME, tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def test_absent_names_say_what_there_is(local: Store, weights: Path) -> None:
    with pytest.raises(UserError, match="which is empty: `epg run --recipe digits` registers"):
        open_registry(local).resolve("digits-denoising")
    for model in (NAME, "digits-consistency"):
        put(local, weights, model=model)
    with pytest.raises(UserError) as caught:
        open_registry(local).resolve("digit-denoising")
    assert str(caught.value) == (
        f"no model 'digit-denoising' (did you mean 'digits-denoising'?) in {local.uri}: "
        "it has digits-consistency, digits-denoising"
    )
    with pytest.raises(UserError, match=r"has no version 'v3' \(did you mean 'v1'\?\) .*has v1$"):
        open_registry(local).resolve(f"{NAME}:v3")


def test_a_name_that_begins_another_is_not_that(local: Store, weights: Path) -> None:
    put(local, weights, model="digits")
    put(local, weights, model="digits-2")
    assert [entry.model for entry in open_registry(local).list("digits")] == ["digits"]
    assert [entry.model for entry in open_registry(local).list()] == ["digits", "digits-2"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "<script>", "x" * 101])
def test_bad_names(local: Store, weights: Path, name: str) -> None:
    with pytest.raises(UserError, match="model name"):
        put(local, weights, model=name)
    with pytest.raises(UserError, match="model version"):
        put(local, weights, version=name)
    with pytest.raises(UserError, match=r"model (name|version)"):
        open_registry(local).resolve(f"{NAME}:{name}")


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"epg_kind": "shards"}'])
def test_damaged_entry(local: Store, content: bytes) -> None:
    local.put_bytes(f"{NAME}/v1/model.json", content)
    with pytest.raises(UserError, match=r"not a registry entry .* move .* away"):
        open_registry(local).resolve(f"{NAME}:v1")


def test_an_entry_of_another_version_is_not_believed(local: Store, weights: Path) -> None:
    put(local, weights)
    local.put_bytes(f"{NAME}/v2/model.json", local.get_bytes(f"{NAME}/v1/model.json"))
    with pytest.raises(UserError, match="it describes 'digits-denoising' version 'v1'"):
        open_registry(local).resolve(f"{NAME}:v2")


def test_missing_weights(local: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors: cannot read them"):
        put(local, tmp_path / "absent.safetensors")


def test_versions_count_as_people_do() -> None:
    assert sorted(["v10", "v2", "v1.10", "v1.9"], key=natural_order) == [
        "v1.9",
        "v1.10",
        "v2",
        "v10",
    ]


VERSION_0_1 = {
    "model.json": """{
 "created": "2026-02-11T10:31:07.512+00:00",
 "digest": "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",
 "epg_kind": "model",
 "files": {
  "model.safetensors": {
   "sha256": "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",
   "size": 5
  }
 },
 "name": "digits-denoising",
 "version": "v1"
}
""",
    "model.safetensors": "first",
}


def test_registry_of_version_0_1_is_read_and_goes_on(
    registry: Store, weights: Path, tmp_path: Path
) -> None:
    for name, content in VERSION_0_1.items():
        registry.put_bytes(f"{NAME}/v1/{name}", content.encode())
    found = open_registry(registry)
    entry = found.resolve(NAME)
    assert (entry.version, entry.time[:10], entry.files["model.safetensors"]["size"]) == (
        "v1",
        "2026-02-11",
        5,
    )
    assert found.fetch(f"{NAME}:v1", tmp_path / "got").read_text() == "first"
    assert put(registry, weights) == entry, "the same weights"
    assert put(registry, make_weights(tmp_path, "second")).version == "v2"
    assert [e.version for e in found.list()] == ["v1", "v2"]


def test_registry_is_opened_by_its_uri(tmp_path: Path, weights: Path) -> None:
    put(open_store(str(tmp_path / "registry")), weights)
    assert open_registry(str(tmp_path / "registry")).resolve(NAME).version == "v1"
    with pytest.raises(UserError, match="unknown scheme"):
        open_registry("ftp://models")

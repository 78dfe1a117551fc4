"""Weights of published networks: found where they lie, taken from where they are, or refused."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from epg.errors import UserError
from epg.evaluation.features import converting
from epg.evaluation.features.converted import load_converted
from epg.evaluation.features.converting import convert
from epg.evaluation.features.weights import WEIGHTS, PublishedWeights, find_weights, require_weights
from epg.stages.weights import install_weights
from epg.store import open_store

STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.ones(2)}


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path) -> None:
    """A layer takes the place of the network, whose file cannot travel with the tests."""
    monkeypatch.setattr(converting, "_network", lambda kind: nn.Sequential(nn.Linear(3, 2)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for weights in WEIGHTS.values():
        monkeypatch.delenv(weights.variable, raising=False)


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "published.pth"
    torch.save(STATE, path)
    pin(monkeypatch, path)
    return path


def pin(monkeypatch, path: Path) -> PublishedWeights:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = replace(WEIGHTS["inception"], sha256=digest)
    monkeypatch.setitem(WEIGHTS, "inception", weights)
    return weights


def test_a_published_file_is_converted_and_found(published, tmp_path):
    place = install_weights("inception", source=str(published))
    assert place == str(tmp_path / "cache/epg/weights/inception-2015-12-05.safetensors")
    found = find_weights("inception").local(tmp_path)
    tensors = load_converted(WEIGHTS["inception"], found)
    assert {name: t.tolist() for name, t in tensors.items()} == {
        name: t.tolist() for name, t in STATE.items()
    }


def test_the_store_of_the_runs_comes_before_the_cache_and_the_environment_before_both(
    published, tmp_path, monkeypatch
):
    root = str(tmp_path / "runs")
    install_weights("inception", source=str(published))
    assert find_weights("inception", root).path is not None
    place = install_weights("inception", source=str(published), store=root)
    assert place.endswith("runs/weights/inception-2015-12-05.safetensors")
    found = find_weights("inception", root)
    assert found.path is None
    (tmp_path / "scratch").mkdir()
    load_converted(WEIGHTS["inception"], found.local(tmp_path / "scratch"))
    mine = tmp_path / "mine.safetensors"
    convert(WEIGHTS["inception"], published, mine)
    monkeypatch.setenv("EPG_INCEPTION_WEIGHTS", str(mine))
    assert find_weights("inception", root).path == mine


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match="without it there is no FID") as caught:
        require_weights(["classifier", "inception"], str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    for part in (WEIGHTS["inception"].url, "`epg weights inception`", "--from FILE", "--store URI"):
        assert part in message
    require_weights(["classifier"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.safetensors", "cannot read it"), ("there.pth", "epg weights inception --from")],
)
def test_what_the_environment_names_must_be_a_converted_file(tmp_path, monkeypatch, name, reason):
    (tmp_path / "there.pth").write_bytes(b"x")
    monkeypatch.setenv("EPG_INCEPTION_WEIGHTS", str(tmp_path / name))
    with pytest.raises(UserError, match=reason):
        find_weights("inception")


class Boom:
    def __reduce__(self):
        return os.system, ("touch boom",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("altered", "SHA-256 is"),
        ("cut", "SHA-256 is"),
        ("missing", "'0.bias' is absent, expected \\[2\\]"),
        ("more", "'fc.weight' is \\[1\\], expected absent"),
        ("shape", "'0.weight' is \\[3, 2\\], expected \\[2, 3\\]"),
        ("objects", "no weight file"),
        ("numbers", "holds other things than tensors"),
        ("text", "no weight file"),
    ],
)
def test_other_files_are_refused_and_nothing_of_them_runs(
    published, tmp_path, monkeypatch, content, reason
):
    monkeypatch.chdir(tmp_path)
    good = published.read_bytes()
    if content == "altered":
        published.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    elif content == "cut":
        published.write_bytes(good[: len(good) // 2])
    else:
        other = {
            "missing": {"0.weight": STATE["0.weight"]},
            "more": {**STATE, "fc.weight": torch.ones(1)},
            "shape": {**STATE, "0.weight": torch.ones(3, 2)},
            "numbers": {"0.weight": 1},
        }
        if content in other:
            torch.save(other[content], published)
        else:
            published.write_bytes(pickle.dumps(Boom()) if content == "objects" else b"hello")
        pin(monkeypatch, published)
    with pytest.raises(UserError, match=reason) as caught:
        install_weights("inception", source=str(published))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()
    assert not (tmp_path / "cache").exists()


def test_a_converted_file_of_other_weights_is_refused(published, tmp_path, monkeypatch):
    path = tmp_path / "converted.safetensors"
    convert(WEIGHTS["inception"], published, path)
    with pytest.raises(UserError, match="weights of 'inception-2015-12-05', expected 'dinov2"):
        load_converted(WEIGHTS["dinov2"], path)
    other = tmp_path / "other.pth"
    torch.save({**STATE, "0.bias": torch.zeros(2)}, other)
    weights = pin(monkeypatch, other)
    with pytest.raises(UserError, match="made of a file with SHA-256"):
        load_converted(weights, path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="altered"):
        load_converted(WEIGHTS["inception"], path)
    plain = tmp_path / "plain.safetensors"
    save_file(STATE, plain)
    with pytest.raises(UserError, match="a file that epg did not write"):
        load_converted(WEIGHTS["inception"], plain)


@pytest.fixture
def site(published) -> Iterator[str]:
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(published.parent)
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_published_file_is_fetched(site, published, tmp_path):
    store = str(tmp_path / "runs")
    install_weights("inception", source=f"{site}/{published.name}", store=store)
    assert open_store(store).size("weights/inception-2015-12-05.safetensors")


def test_what_cannot_be_fetched_is_said_with_the_way_out(site):
    with pytest.raises(UserError, match="cannot be fetched") as caught:
        install_weights("inception", source=f"{site}/absent.pth")
    assert "without internet" in str(caught.value)


def test_a_download_without_a_known_digest_needs_one(site, published, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "dinov2", replace(WEIGHTS["dinov2"], url=f"{site}/published.pth"))
    with pytest.raises(UserError, match="add --sha256 DIGEST"):
        install_weights("dinov2")
    with pytest.raises(UserError, match="expected 00"):
        install_weights("dinov2", sha256="00")
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert install_weights("dinov2", sha256=digest).endswith("dinov2-vit-b-14-224.safetensors")


def test_unknown_networks_are_refused():
    with pytest.raises(UserError, match=r"'inceptoin' \(did you mean 'inception'\?\)"):
        install_weights("inceptoin")

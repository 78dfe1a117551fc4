"""The door of a component: what it reads and fills, and how a step that cannot go on says so."""

from __future__ import annotations

import errno
import json
import os

import pytest

from epg.errors import UserError
from epg.runs.entry import Component
from epg.runs.handover import HandOver
from epg.runs.perform import perform
from epg.stages.catalog import STAGES
from tests.toys.handed import artifact


@pytest.fixture
def place(tmp_path):
    store = str(tmp_path / "store")
    return {"recipe": "smoke", "overrides": {}, "store": store, "run_name": "mine"}


def told(tmp_path, stage):
    content = json.loads((tmp_path / "store" / "mine" / "failures" / f"{stage}.json").read_text())
    assert content["stage"] == stage
    return content["message"]


def pretrain(run, shards):
    def work(reporter, outputs):
        outputs.put_bytes("encoder", "encoder.safetensors", shards * 1000)
        outputs.put_bytes("curves", "curves.html", b"<p>")
        outputs.metrics.update(loss=0.1234567890123, bad=float("nan"), verdict="pass")

    return perform(run, STAGES["pretrain"], config={}, inputs={}, work=work)


def test_it_takes_hands_over_shows_measures_and_returns(tmp_path, place):
    step = Component(
        pretrain,
        takes={"shards": lambda data: data.upper()},
        follows=("before",),
        hands_over={"encoder": ("encoder",)},
        shows={"curves": "curves"},
        measures="metrics",
        returns="verdict",
    )
    encoder, curves = artifact(tmp_path / "out" / "encoder"), artifact(tmp_path / "curves")
    metrics = artifact(tmp_path / "metrics")
    returned = step(
        shards=artifact(tmp_path / "shards", b"tar"),
        before=None,
        encoder=encoder,
        curves=curves,
        metrics=metrics,
        **place,
    )
    assert returned == "pass"
    text = (tmp_path / "out" / "encoder").read_bytes()
    assert HandOver.from_json(text).objects["encoder"].size == len(b"TAR" * 1000)
    assert encoder.metadata["epg"] == text.decode()
    assert (tmp_path / "curves").read_bytes() == b"<p>"
    # Kubeflow keeps six decimals, and no NaN at all; the string has them.
    assert metrics.metadata.pop("loss") == 0.1234567890123
    assert json.loads(metrics.metadata.pop("epg")) == {"loss": "0.1234567890123", "bad": "nan"}
    assert metrics.metadata == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("too few images: add some"), "too few images: add some"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data"), "no space left on the disk of"),
    ],
)
def test_what_a_user_can_mend_is_the_last_line_and_exit_2(tmp_path, place, capsys, error, said):
    def gate(run, objective):
        raise error

    with pytest.raises(SystemExit) as ended:
        Component(gate)(objective="denoising", **place)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"epg: error: gate-denoising: {said}")
    assert told(tmp_path, "gate-denoising").startswith(said)


def test_a_recipe_that_is_wrong_is_told_once_and_stored(tmp_path, place, capsys):
    with pytest.raises(SystemExit):
        Component(pretrain)(**{**place, "overrides": {"pretrain.stepz": 3}})
    shown = capsys.readouterr().err
    assert shown.count("unknown key") == 1
    assert "stepz" in told(tmp_path, "pretrain")


def test_a_bug_is_stored_and_keeps_its_traceback(tmp_path, place):
    def shard(run):
        raise ZeroDivisionError("a\nbug")

    with pytest.raises(ZeroDivisionError):
        Component(shard)(**place)
    assert told(tmp_path, "shard") == "ZeroDivisionError: a bug"


def test_a_store_that_is_away_hides_no_reason(tmp_path, place, capsys):
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(SystemExit):
        Component(pretrain)(**place)
    shown = capsys.readouterr().err
    assert "the reason could not be stored" in shown
    assert shown.splitlines()[-1].startswith("epg: error: pretrain: store ")


@pytest.mark.parametrize("gone", ["artifact", "object"])
def test_a_cached_result_that_is_gone_is_said_to_be_of_the_cache(
    tmp_path, place, capsys, monkeypatch, gone
):
    """Kubeflow hands over what it has seen once, whether it is there or not."""
    monkeypatch.setenv("EPG_PIPELINE_RUN", "2f1c9a52-aaaa")
    shards = artifact(tmp_path / "shards", None if gone == "artifact" else b"tar")

    def reading(run, shards):
        return perform(
            run,
            STAGES["pretrain"],
            config={},
            inputs={},
            work=lambda *_: run.store.get_bytes("shards/1/train-00000.tar"),
        )

    with pytest.raises(SystemExit) as ended:
        Component(reading, takes={"shards": bytes})(shards=shards, **place)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Kubeflow's cache" in last
    assert "--no-cache" in last
    assert ("no file" if gone == "artifact" else "shards/1/train-00000.tar") in last

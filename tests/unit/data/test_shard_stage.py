from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from epg.data import shares
from epg.data.manifest import Manifest
from epg.data.reader import ShardReader
from epg.errors import UserError
from epg.runs.claim import claim_run
from epg.runs.perform import perform
from epg.runs.record import StageRecord, load_record
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.stages.changes import explain_inputs, noted_contents
from epg.stages.inputs import stored_manifest
from epg.stages.parts import lease_of
from epg.stages.settings import check_unchanged, reference_config, shard_config, training_config
from epg.stages.shard import shard, shard_component
from epg.stages.shard_part import shard_part
from epg.stages.shard_plan import shard_plan_component
from epg.store.lease import InUse, Lease
from epg.store.local import LocalStore
from tests.toys.handed import artifact


def wait_for(look, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def open_run(root: Path, **overrides) -> Run:
    return Run.open("digits", overrides, str(root), "one")


def test_shards_are_written_once(tmp_path, capsys):
    run = open_run(tmp_path)
    record = shard(run)
    assert record.metrics["images_train"] == 1438
    assert record.metrics["images_held_out"] == 359
    assert record.metrics["images_skipped"] == 0
    manifest = Manifest.from_json(run.store.get_bytes(record.outputs["manifest"]["key"]))
    assert ShardReader(run.store, manifest, "train").load()[0].shape == (1438, 8, 8, 1)
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    assert shard(open_run(tmp_path)) == record
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == changed


def test_finished_stage_loads_nothing_heavy(tmp_path):
    shard(open_run(tmp_path))
    code = (
        "import sys; from epg.runs.run import Run; from epg.stages.shard import shard; "
        f"shard(Run.open('digits', {{}}, {str(tmp_path)!r}, 'one')); "
        "print([m for m in ('torch', 'sklearn', 'scipy', 'PIL.Image') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("damage", ["delete", "cut"])
def test_lost_shard_is_written_again_with_the_same_bytes(tmp_path, damage):
    run = open_run(tmp_path)
    record = shard(run)
    manifest = Manifest.from_json(run.store.get_bytes(record.outputs["manifest"]["key"]))
    key = manifest.shards("train")[1].key
    before = run.store.get_bytes(key)
    if damage == "delete":
        run.store.delete(key)
    else:
        run.store.put_bytes(key, before[:-1])
    assert shard(open_run(tmp_path)).outputs == record.outputs
    assert run.store.get_bytes(key) == before


def test_store_that_is_away_says_nothing_about_the_shards(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    record = shard(run)
    key = record.outputs["manifest"]["key"]
    read = LocalStore.open

    def away(store: LocalStore, name: str) -> BinaryIO:
        if name == key:
            raise UserError("S3 at http://s3:9000: no answer in time")
        return read(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "open", away)
        with pytest.raises(UserError, match="no answer in time"):
            shard(run)
    assert load_record(run, "shard") == record


def test_record_whose_manifest_is_no_manifest_is_dropped(tmp_path):
    run = open_run(tmp_path)
    record = shard(run)
    key = record.outputs["manifest"]["key"]
    run.store.put_bytes(key, b"{}")
    assert shard(open_run(tmp_path)).outputs == record.outputs
    assert Manifest.from_json(run.store.get_bytes(key)).image_size == 8


def test_other_settings_make_other_shards(tmp_path):
    first = shard(open_run(tmp_path))
    second = shard(open_run(tmp_path, **{"data.held_out_fraction": 0.3}))
    assert second.metrics["images_train"] < first.metrics["images_train"]
    assert second.outputs["manifest"]["key"] != first.outputs["manifest"]["key"]
    normalised = open_run(tmp_path, **{"data.held_out_fraction": 0.3, "data.mean": [0.1]})
    assert shard(normalised) == second


def test_changed_folder_is_noticed(tmp_path, photos):
    changes = {
        "data.source": f"folder:{photos}",
        "data.num_classes": 2,
        "data.channels": 3,
    }
    first = shard(open_run(tmp_path, **changes))
    assert first.metrics["images_train"] == 10
    assert first.details["classes"] == ["apple", "pear"]
    (photos / "pear" / "5.png").unlink()
    assert shard(open_run(tmp_path, **changes)).metrics["images_train"] == 9


def test_touched_copied_and_moved_images_are_the_same_data(tmp_path, photos, capsys):
    def settings(folder: Path) -> dict:
        return {"data.source": f"folder:{folder}", "data.num_classes": 2, "data.channels": 3}

    first = shard(open_run(tmp_path / "runs", **settings(photos)))
    os.utime(photos / "apple" / "0.png", ns=(1, 1))
    assert shard(open_run(tmp_path / "runs", **settings(photos))) == first
    shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(photos)
    assert shard(open_run(tmp_path / "runs", **settings(tmp_path / "copy"))) == first
    assert len(list((tmp_path / "runs").rglob("manifest.json"))) == 1
    capsys.readouterr()
    (tmp_path / "copy" / "pear").rename(tmp_path / "copy" / "quince")
    assert shard(open_run(tmp_path / "runs", **settings(tmp_path / "copy"))) != first
    assert "made anew: class 'pear' is now called 'quince'" in capsys.readouterr().err


def test_finished_training_is_refused_with_what_became_of_the_images(tmp_path, photos):
    changes = {"data.source": f"folder:{photos}", "data.num_classes": 2, "data.channels": 3}
    run = open_run(tmp_path / "runs", **changes)
    shard(run)
    before = {"shards": stored_manifest(run).sha256}

    def train() -> StageRecord:
        return perform(
            run,
            STAGES["pretrain"],
            config=training_config(run.recipe, "pretrain"),
            inputs={"shards": stored_manifest(run).sha256},
            work=lambda reporter, outputs: None,
            explain=explain_inputs,
        )

    train()
    check_unchanged(run)
    (photos / "pear" / "5.png").unlink()
    told = r"results of 'pretrain' made of other data \(1 image removed \('pear/5.png'\)\).*--from"
    with pytest.raises(UserError, match=told):  # before anything is sharded
        check_unchanged(run)
    shard(run)
    assert stored_manifest(run).sha256 != before["shards"]
    with pytest.raises(UserError, match=told):
        train()


def test_path_of_the_images_is_no_setting(tmp_path, photos):
    one, two = (
        open_run(tmp_path, **{"data.source": f"folder:{place}", "data.num_classes": 2}).recipe
        for place in (photos, "/elsewhere")
    )
    assert training_config(one, "pretrain") == training_config(two, "pretrain")
    assert shard_config(one) == shard_config(two)
    assert reference_config(one) == reference_config(two)
    assert reference_config(open_run(tmp_path).recipe) != reference_config(one)


def test_shards_of_other_images_are_not_taken_for_a_folder_that_is_not_there(tmp_path, photos):
    changes = {"data.source": f"folder:{photos}", "data.num_classes": 2, "data.channels": 3}
    shard(open_run(tmp_path / "runs", **changes))
    changes["data.source"] = f"folder:{photos}-of-another"
    with pytest.raises(UserError, match=f"no such folder.*has shards of folder:{photos}: give"):
        shard(open_run(tmp_path / "runs", **changes))


def test_component_hands_on_the_manifest(tmp_path):
    shards, page = artifact(tmp_path / "out" / "shards"), artifact(tmp_path / "out" / "page")
    shard_component(
        shards=shards,
        page=page,
        recipe="digits",
        overrides={},
        store=str(tmp_path / "s"),
        run_name="one",
    )
    assert "Images per class" in Path(page.path).read_text(encoding="utf-8")
    manifest = Manifest.from_json(Path(shards.path).read_bytes())
    noted = json.loads(shards.metadata["epg"])["objects"]["manifest"]
    record = load_record(Run.open("digits", {}, str(tmp_path / "s"), "one"), "shard")
    assert record is not None
    assert noted["sha256"] == record.outputs["manifest"]["sha256"]
    assert manifest.classes == [str(digit) for digit in range(10)]
    assert manifest.num_samples("train") == record.metrics["images_train"]


def test_bad_source_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing: no such folder"):
        shard(open_run(tmp_path, **{"data.source": "folder:/nothing"}))
    assert load_record(open_run(tmp_path), "shard") is None


def test_shards_made_elsewhere_serve_where_the_folder_is_not(tmp_path, photos, capsys):
    """A pod does not see the disk of the machine that sharded into its store."""
    settings = {"data.source": f"folder:{photos}", "data.num_classes": 2, "data.channels": 3}
    made = shard(open_run(tmp_path / "store", **settings))
    photos.rename(tmp_path / "away")
    capsys.readouterr()
    assert shard(open_run(tmp_path / "store", **settings)) == made
    assert "is not here: the shards made of it are used" in capsys.readouterr().err
    with pytest.raises(UserError, match="made with other settings"):
        shard(open_run(tmp_path / "store", **settings, seed=1))
    with pytest.raises(UserError, match=r"no such folder.*or shard it where it is.*epg shard"):
        shard(open_run(tmp_path / "another", **settings))
    open_run(tmp_path / "store", **settings).store.delete(made.outputs["manifest"]["key"])
    with pytest.raises(UserError, match="no such folder"):
        shard(open_run(tmp_path / "store", **settings))


def leave_results(run: Run, *stages: str) -> None:
    for stage in stages:
        run.store.put_bytes(f"stages/{stage}.json", b"{}")
        run.store.put_bytes(f"{stage}/result", b"1")


def test_the_first_step_of_a_pipeline_throws_results_away_when_told_so(tmp_path):
    run = open_run(tmp_path)
    shard(run)
    leave_results(run, "pretrain", "finetune-denoising", "reference-statistics")
    shard(run, begin_at="pretrain")
    left = {info.key for info in run.store.list("stages/")}
    assert left == {"stages/shard.json", "stages/reference-statistics.json"}
    assert not list(run.store.list("pretrain/"))
    with pytest.raises(UserError, match=r"begin_at pretrian: no such stage \(did you mean 'pretra"):
        shard(run, begin_at="pretrian")


def test_nothing_is_thrown_away_under_a_stage_at_work(tmp_path):
    run = open_run(tmp_path)
    shard(run)
    leave_results(run, "pretrain", "finetune-denoising")
    with (
        Lease(run.store, "leases/finetune-denoising", "the other"),
        pytest.raises(InUse, match="in use by the other"),
    ):
        shard(run, begin_at="pretrain")
    assert run.store.get_bytes("pretrain/result") == b"1"
    assert [info.key for info in run.store.list("leases/")] == []


@pytest.mark.parametrize("parts", [["1/2", "2/2"], ["2/3"], []])
def test_parts_are_gathered_whatever_there_is_of_them(tmp_path, parts):
    run, alone = open_run(tmp_path / "parts"), open_run(tmp_path / "alone")
    written = [shard_part(run, part).metrics["images"] for part in parts]
    assert load_record(run, "shard") is None
    if len(parts) == 2:
        assert sum(written) == 1797
    together, by_itself = shard(run), shard(alone)
    assert together.outputs == by_itself.outputs
    assert together.metrics == by_itself.metrics


def test_a_part_is_done_once_and_by_one(tmp_path):
    run = open_run(tmp_path)
    shard_part(run, "1/2")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    assert before
    shard_part(run, "1/2")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == before
    with Lease(run.store, "leases/shard-part-1-of-2", "a test"), pytest.raises(InUse, match="part"):
        shard_part(run, "1/2")


def notes(run: Run) -> set[str]:
    return {i.key.split("/")[-1] for i in run.store.list("shards/") if i.key.endswith(".part.json")}


@pytest.mark.parametrize("comes_back", [True, False])
def test_shards_of_a_part_that_somebody_is_at_are_waited_for(tmp_path, monkeypatch, comes_back):
    monkeypatch.setattr(shares, "_PAUSE", 0.05)
    run, alone = open_run(tmp_path / "parts"), open_run(tmp_path / "alone")
    by_itself = shard(alone)
    assert len(notes(alone)) == 4
    with ThreadPoolExecutor(1) as pool:
        with Lease(run.store, lease_of(1, 3), "a test"):
            gathering = pool.submit(shard, run, shard_parts=3)
            ours = wait_for(lambda: notes(run) if len(notes(run)) == 3 else None)
            assert ours == notes(alone) - {"train-000000.tar.part.json"}
            time.sleep(0.3)
            assert not gathering.done()
            assert notes(run) == ours
        if comes_back:
            shard_part(run, "1/3")
        assert gathering.result(timeout=60).outputs == by_itself.outputs
    assert notes(run) == notes(alone)


def test_the_plan_names_the_other_parts_and_notes_what_the_images_are(tmp_path, capsys):
    arguments: dict[str, Any] = {"recipe": "digits", "overrides": {}, "run_name": "one"}
    arguments["store"] = str(tmp_path)
    assert shard_plan_component(**arguments, shard_parts=3.0) == ["1/3", "2/3"]
    run = open_run(tmp_path)
    (noted,) = noted_contents(run).values()
    assert noted.digest == shard(run).inputs["source"]
    assert load_record(run, "shard-plan") is None
    with pytest.raises(SystemExit):
        shard_plan_component(**arguments, shard_parts=2.5)
    assert "shard_parts is 2.5: write a whole number from 1 to 64" in capsys.readouterr().err


def test_a_part_keeps_off_a_run_that_has_another_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("EPG_PIPELINE_RUN", "first")
    claim_run(open_run(tmp_path))
    monkeypatch.setenv("EPG_PIPELINE_RUN", "second")
    other = open_run(tmp_path, **{"data.max_bad_fraction": 0.5})
    with pytest.raises(InUse, match=r"with another recipe \(data.max_bad_fraction"):
        shard_part(other, "1/2")
    assert list(other.store.list("shards/")) == []


@pytest.mark.parametrize("parts", [0, 65, 2.5, True, "2", float("nan")])
def test_numbers_of_parts_that_are_none_are_refused(tmp_path, parts):
    with pytest.raises(UserError, match=r"shard_parts is .*: write a whole number from 1 to 64"):
        shard(open_run(tmp_path), shard_parts=parts)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/", "-1/2", "1/2/3", "a/b", "1/65"])
def test_parts_that_are_none_are_refused(tmp_path, part):
    with pytest.raises(UserError, match="write I/N, the I-th of N parts"):
        shard_part(open_run(tmp_path), part)

"""Two real processes that meet by gloo against one, and what becomes of them when one is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from epg.errors import UserError
from epg.store import open_store
from epg.training.job import Trained, TrainingJob
from epg.training.launch import launch
from epg.training.loop import Watch
from tests.toys.command import PATIENCE, ROOT, environment
from tests.unit.training.conftest import finetuning

OBJECTIVES = ("pretrain", "denoising", "consistency")


class KilledError(Exception):
    """Stands for a kill between two steps."""


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPG_PROCESSES", "2")


def job_of(
    objective: str, pretraining: TrainingJob, stage1: Trained, folder: Path, **changed: Any
) -> TrainingJob:
    folder.mkdir()
    if objective == "pretrain":
        job = replace(pretraining, scratch=folder)
    else:
        job = finetuning(pretraining, stage1, objective, folder)
    section = job.optimizer.model_copy(update={"checkpoint_every_seconds": 1e-9, **changed})
    recipe = job.recipe.model_copy(update={objective: section})
    return replace(job, recipe=recipe, stage=f"{job.stage}-{folder.name}")


def interrupted_at(step: int) -> Watch:
    def progress(done: int, _total: int, _values: dict[str, float]) -> None:
        if done == step:
            raise KilledError

    return Watch(progress=progress)


def same(ours: Trained, other: Trained) -> None:
    for row, expected in zip(ours.series, other.series, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for kind, path in other.files.items():
        weights = load_file(ours.files[kind])
        for name, tensor in load_file(path).items():
            # Adam divides a gradient by its own size: noise in one near 0 is not small.
            difference = (weights[name].float() - tensor.float()).abs()
            assert difference.mean() < 1e-5, name


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_what_one_trains(
    objective: str,
    pretraining: TrainingJob,
    stage1: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where one goes on from the checkpoint of two, and two from that of one."""
    stage = "pretrain" if objective == "pretrain" else f"finetune-{objective}"
    jobs = {
        name: replace(
            job_of(objective, pretraining, stage1, tmp_path / name), stage=f"{stage}-ranks"
        )
        for name in ("alone", "mixed")
    }
    alone = launch(jobs["alone"], Watch())
    open_store(pretraining.store).clear(f"{stage}-ranks")
    monkeypatch.setenv("EPG_PROCESSES", "2")
    heard: list[str] = []
    if objective == "denoising":
        with pytest.raises(KilledError):
            launch(jobs["mixed"], interrupted_at(2))
        monkeypatch.delenv("EPG_PROCESSES")
        with pytest.raises(KilledError):
            launch(jobs["mixed"], interrupted_at(4))
        monkeypatch.setenv("EPG_PROCESSES", "2")
    mixed = launch(jobs["mixed"], Watch(message=heard.append))
    assert heard == ["going on from the checkpoint at step 3"] * (objective == "denoising")
    same(mixed, alone)
    open_store(pretraining.store).clear(f"{stage}-ranks")


@pytest.mark.usefixtures("two")
def test_who_waits_for_a_process_that_is_gone_says_so(
    pretraining: TrainingJob, stage1: Trained, tmp_path: Path
) -> None:
    job = job_of("denoising", pretraining, stage1, tmp_path / "gone", checkpoint_every_seconds=99)
    gone: list[psutil.Process] = []

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            gone.extend(psutil.Process().children())
            for child in gone:
                child.send_signal(signal.SIGKILL)

    with pytest.raises(UserError, match=r"lost each other: rank 1 ended with exit code -9"):
        launch(job, Watch(row=kill))
    assert gone
    assert not any(child.is_running() for child in gone)


@pytest.mark.usefixtures("two")
def test_a_batch_that_they_cannot_share_is_refused(
    pretraining: TrainingJob, stage1: Trained, tmp_path: Path
) -> None:
    job = job_of("denoising", pretraining, stage1, tmp_path / "odd", batch_size=33)
    with pytest.raises(UserError, match=r"batch_size is 33: 2 processes share .* multiple of 2"):
        launch(job, Watch())


def test_torchrun_starts_the_same_command(tmp_path: Path) -> None:
    """One process keeps the records; where all is done already, the other is not left waiting."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    run += ["--master-addr=127.0.0.1", "--standalone"]
    epg = ["-m", "epg"]
    more = ["--recipe", "smoke", "--store", str(tmp_path / "runs"), "--set", "pretrain.steps=5"]
    settings = environment(toys=False)

    def call(*command: str) -> str:
        done = subprocess.run(
            [*command, *more],
            cwd=ROOT,
            env=settings,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    call(sys.executable, "-m", "epg", "shard")
    assert "loss_contrastive" in call(*run, *epg, "pretrain")
    record = tmp_path / "runs" / "smoke" / "stages" / "pretrain.json"
    written = record.stat().st_mtime_ns
    call(*run, *epg, "pretrain")
    assert record.stat().st_mtime_ns == written

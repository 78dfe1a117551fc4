"""A job is a plain value: another process that gets only its JSON trains the same bytes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.store import open_store
from epg.store.lease import InUse
from epg.training.builders import BUILDERS
from epg.training.job import Trained, TrainingJob
from epg.training.launch import launch
from epg.training.loop import Watch
from tests.unit.training.conftest import finetuning

ELSEWHERE = """
import pickle, sys
from epg.training.job import TrainingJob
from epg.training.launch import launch
from epg.training.loop import Watch
job = TrainingJob.from_json(open(sys.argv[1], "rb").read())
pickle.dump(launch(job, Watch()), open(sys.argv[2], "wb"))
"""


def contents(trained: Trained) -> dict[str, bytes]:
    return {kind: path.read_bytes() for kind, path in trained.files.items()}


@pytest.mark.parametrize("objective", list(BUILDERS))
def test_a_job_read_back_gives_the_same_bytes_in_another_process(
    pretraining: TrainingJob, stage1: Trained, objective: str, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    jobs = [
        replace(pretraining, scratch=folder)
        if objective == "pretrain"
        else finetuning(pretraining, stage1, objective, folder)
        for folder in folders
    ]
    here = launch(jobs[0], Watch())
    (tmp_path / "job").write_bytes(jobs[1].to_json())
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "job"), str(tmp_path / "trained")]
    subprocess.run(command, check=True, cwd=tmp_path, env=dict(os.environ))
    there = pickle.loads((tmp_path / "trained").read_bytes())  # noqa: S301 - our own child's
    assert contents(here) == contents(there)
    assert here.series == there.series
    assert [row["step"] for row in here.series] == [1, 2, 3, 4, 5, 6]
    assert here.parameters == there.parameters


def test_the_generator_of_a_job_counts_its_parameters(
    pretraining: TrainingJob, stage1: Trained
) -> None:
    assert set(stage1.files) == {"encoder", "projector"}
    assert all(path.parent == pretraining.scratch for path in stage1.files.values())
    assert stage1.parameters["encoder"] > stage1.parameters["projector"] > 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model.depth": 3}, r"this encoder has another shape than the recipe \(depth: 2 -> 3\)"),
        (
            {"model.projector_dim": 8},
            r"this projector has another shape than the recipe \(output_dim: 32 -> 8\)",
        ),
        (
            {"data.mean": [0.25], "diffusion.sigma_data": 0.25},
            r"this encoder was trained on other inputs than the recipe's \("
            r"data.mean: .* -> \[0.25\]; diffusion.sigma_data: 0.5 -> 0.25\)",
        ),
    ],
)
def test_weights_of_another_recipe_are_refused(
    pretraining: TrainingJob,
    stage1: Trained,
    tmp_path: Path,
    changed: dict[str, Any],
    told: str,
) -> None:
    job = finetuning(pretraining, stage1, "consistency", tmp_path)
    with pytest.raises(UserError, match=told):
        launch(replace(job, recipe=load_recipe("smoke", changed)), Watch())


def test_who_lost_the_stage_writes_no_checkpoint(pretraining: TrainingJob) -> None:
    class Lost:
        def check(self) -> None:
            pass  # nobody has noticed yet

        def confirm(self) -> None:
            raise InUse("another has it")

    always = pretraining.recipe.pretrain.model_copy(update={"checkpoint_every_seconds": 1e-9})
    recipe = pretraining.recipe.model_copy(update={"pretrain": always})
    with pytest.raises(InUse):
        launch(replace(pretraining, recipe=recipe, stage="another"), Watch(guard=Lost()))
    assert not list(open_store(pretraining.store).list("another/"))

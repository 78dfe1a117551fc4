"""A pre-training of a few steps on the digits, and its result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from epg.config.loading import load_recipe
from epg.data.sharding import write_shards
from epg.data.sources import open_source
from epg.store import open_store
from epg.training.job import Trained, TrainingJob
from epg.training.launch import launch
from epg.training.loop import Watch


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """The smoke recipe's pre-training, a few steps of it, on the digits."""
    root = tmp_path_factory.mktemp("job")
    steps = {f"{section}.steps": 6 for section in ("pretrain", "denoising", "consistency")}
    recipe = load_recipe("smoke", steps)
    store = open_store(str(root / "store"))
    source = open_source(recipe.data.source, recipe.data, recipe.seed)
    manifest = write_shards(source, recipe.data, recipe.seed, store, "shards")
    (root / "scratch").mkdir()
    arguments = {
        "encoder": recipe.encoder_arguments(),
        "projector": recipe.projector_arguments(),
    }
    return TrainingJob(
        stage="pretrain",
        objective="pretrain",
        recipe=recipe,
        manifest=manifest,
        store=store.uri,
        config={},
        inputs={},
        weights={},
        headers={
            kind: {"kind": kind, "arguments": of, "recipe": recipe.model_dump(mode="json")}
            for kind, of in arguments.items()
        },
        scratch=root / "scratch",
    )


@pytest.fixture(scope="module")
def stage1(pretraining: TrainingJob) -> Trained:
    return launch(pretraining, Watch())


def finetuning(job: TrainingJob, stage1: Trained, objective: str, scratch: Path) -> TrainingJob:
    return replace(
        job,
        stage=f"finetune-{objective}",
        objective=objective,
        weights=stage1.files,
        headers={"generator": {"kind": "generator"}},
        scratch=scratch,
    )

"""Which parts of a recipe each stage's result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from epg.config.recipe import Recipe
from epg.runs.perform import changed_error
from epg.runs.record import load_record
from epg.runs.run import Run
from epg.stages.catalog import stages_of_kind
from epg.stages.changes import changes_since_sharding, noted_contents, present_contents
from epg.telemetry.progress import StageReporter

#: Settings that change how work is watched and saved, and what is refused, not what it computes.
_BOOKKEEPING = {"checkpoint_every_seconds", "activation_checkpointing", "few"}
#: Settings of the sampler in the sections of stage 2.
_SAMPLING = (
    "sampling_steps",
    "solver",
    "clamp",
    "sampling_precision",
    "sampling_ema",
    "guidance_scale",
    "guidance_interval",
    "final_euler_step",
)


def _sections(recipe: Recipe, *names: str) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    # A data set is what it holds, which its digest says: its path is no setting.
    content["data"]["source"] = content["data"]["source"].partition(":")[0]
    for key in ("classes", "limit"):  # a part that is not taken is no setting
        if content["data"][key] is None:
            content["data"].pop(key)
    chosen = {name: content[name] for name in names}
    for section in chosen.values():
        if isinstance(section, dict):
            for key in _BOOKKEEPING:
                section.pop(key, None)
    return chosen


def shard_config(recipe: Recipe) -> dict[str, Any]:
    """Settings of the stored images. Normalisation and flips happen later."""
    config = _sections(recipe, "seed", "data")
    for key in ("mean", "std", "horizontal_flip"):
        config["data"].pop(key)
    return config


def shards_folder(recipe: Recipe, source_digest: str) -> str:
    """Return where shards lie: a folder for all that their bytes depend on.

    How many bad images are allowed does not change them.
    """
    config = shard_config(recipe)
    data = {key: value for key, value in config["data"].items() if key != "max_bad_fraction"}
    text = json.dumps({**config, "data": data, "source": source_digest}, sort_keys=True)
    return f"shards/{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def training_config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Settings of `pretrain`, `finetune-denoising` or `finetune-consistency`."""
    own = "pretrain" if stage == "pretrain" else stage.removeprefix("finetune-")
    config = _sections(recipe, "seed", "data", "diffusion", "model", own)
    config["data"].pop("max_bad_fraction")
    for key in _SAMPLING:
        config[own].pop(key, None)
    return config


def evaluation_config(recipe: Recipe, objective: str) -> dict[str, Any]:
    """Settings of evaluating one generator: the judge's and the sampler's."""
    config = _sections(recipe, "seed", "evaluate")
    config["sampling"] = recipe.sampling(objective).model_dump(mode="json")
    return config


def reference_config(recipe: Recipe) -> dict[str, Any]:
    """Settings of the reference statistics and of the feature network that is trained for them."""
    config = _sections(recipe, "seed", "data", "evaluate")
    config["data"].pop("max_bad_fraction")
    used = ("networks", "classifier_epochs", "reference")  # the file is an input: its digest counts
    config["evaluate"] = {key: config["evaluate"][key] for key in used}
    return config


def check_unchanged(run: Run) -> None:
    """Refuse at once, before anything long, what a training stage would refuse later."""
    trained = [record for s in stages_of_kind("training") if (record := load_record(run, s.name))]
    for record in trained:
        config = training_config(run.recipe, record.stage)
        for key in ("num_classes", "mean", "std"):  # what is left to the data is no change
            if config["data"][key] is None and isinstance(record.config.get("data"), dict):
                config["data"][key] = record.config["data"].get(key)
        if record.config != config:
            raise changed_error(run, record, config)
    changed = _changed_images(run) if trained else []
    if changed:
        raise changed_error(run, trained[0], trained[0].config, changed)


def _changed_images(run: Run) -> list[str]:
    from epg.data.sources import SourceNotFound

    noted = noted_contents(run)
    try:
        now = present_contents(run, noted, StageReporter("shard"))
    except SourceNotFound:  # shards of images that lie elsewhere are used as they are
        return []
    return changes_since_sharding(run, noted, now)

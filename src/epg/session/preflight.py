"""Everything that can be known to be wrong before anything long starts, and what will be run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epg.errors import UserError, printable
from epg.runs.run import Run, check_run_name
from epg.stages.afresh import check_stage
from epg.stages.catalog import OBJECTIVES, stages_of

if TYPE_CHECKING:
    from epg.config.recipe import Recipe
    from epg.store.lease import Lease

_LARGEST = 100_000  # bytes of a step's arguments; Linux has 128 KiB for one

#: Files of `epg run` itself, beside the run's results.
LOG, EVENTS, KFP = "run.log", "events.jsonl", "kfp"


@dataclass(frozen=True)
class RunRequest:
    """What `epg run` was asked for, as the command line read it."""

    recipe: str
    run_name: str | None = None
    output: str = "runs"
    settings: list[str] = field(default_factory=list)
    data: str | None = None
    classes: str | None = None
    limit: int | None = None
    store: str | None = None
    objectives: list[str] = field(default_factory=lambda: list(OBJECTIVES))
    inception_weights: str | None = None
    metrics_port: int | None = None
    begin_at: str | None = None


@dataclass(frozen=True)
class RunPlan:
    """A request that was found sound.

    Attributes:
        run: the opened run.
        folder: local folder of the log, the events and kfp's artifacts.
        arguments: parameters of the compiled pipeline.
        environment: variables of the host process and of every step, besides our own.
        stages: names of the stages that will be met.
    """

    run: Run
    folder: Path
    arguments: dict[str, Any]
    environment: dict[str, str]
    stages: list[str]


def make_plan(request: RunRequest) -> RunPlan:
    """Check a request and open its run; nothing is written yet.

    Raises:
        UserError: recipe, setting, name, store, data or weights are not usable.
    """
    from epg.config.loading import (
        available_recipes,
        load_recipe,
        parse_overrides,
        passable_recipe,
        travels,
    )
    from epg.stages.gate import check_bounds

    if not request.objectives:
        raise UserError("--no-denoising and --no-consistency together leave nothing to train")
    if request.begin_at is not None:
        check_stage(request.begin_at, "--from")
    overrides = parse_overrides(request.settings)
    overrides.update(_data_overrides(request, overrides))
    recipe = load_recipe(request.recipe, overrides)
    check_bounds(recipe)
    packaged = request.recipe in available_recipes() and travels(overrides)
    name = request.run_name if request.run_name is not None else recipe.name
    check_run_name(name)
    output = Path(request.output).expanduser().absolute()
    store = request.store if request.store is not None else str(output)
    # A recipe from a file travels as text: steps in containers do not see the file.
    text = request.recipe if packaged else passable_recipe(recipe)
    arguments: dict[str, Any] = {
        "recipe": text,
        "overrides": overrides if packaged else {},
        "run_name": name,
        "store": _absolute(store),
        **{objective: objective in request.objectives for objective in OBJECTIVES},
    }
    _check_arguments(arguments)
    run = Run.open(text, arguments["overrides"], arguments["store"], name)
    check_held_out(run.recipe)
    return RunPlan(
        run=run,
        folder=output / name,
        arguments=arguments,
        environment=_environment(request, run),
        stages=stages_of(request.objectives),
    )


def _check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse what cannot be handed to a step, before any has begun."""
    size = 0
    for value in (arguments["overrides"].get("data.source", ""), *arguments.values()):
        text = json.dumps(value, ensure_ascii=False)
        try:
            size += len(text.encode())
        except UnicodeEncodeError:
            raise UserError(
                f"{printable(text)[:300]}: a name that is not UTF-8 cannot be handed to a step: "
                "rename the folder, or make a link to it whose name and place are (`ln -s`)"
            ) from None
    if size > _LARGEST:
        raise UserError(
            f"the recipe and its settings have {size:,} bytes; at most {_LARGEST:,} can be handed "
            "to a step: shorten description"
        )


def check_held_out(recipe: Recipe) -> None:
    """Refuse an evaluation that the numbers of images do not bear; none is opened.

    Raises:
        UserError: one line with what is to be changed.
    """
    from epg.data.sources import SourceNotFound, is_quick, open_source
    from epg.evaluation.checks import check_data

    # Digits are many, and heavy to load for a look; archives would be gone through.
    if ":" not in recipe.data.source or not is_quick(recipe.data.source):
        return
    try:
        source = open_source(recipe.data.source, recipe.data, recipe.seed)
    except SourceNotFound:  # it may have been sharded elsewhere
        return
    held_out = sum(item.split == "held-out" for item in source.items)
    check_data(recipe, len(source.items) - held_out, held_out)


def run_lock(run: Run, owner: str) -> Lease:
    """Return the lease that keeps a second process off the run's results, to be entered."""
    from epg.store.lease import Lease

    return Lease(run.store, "lock", owner)


def probe(run: Run) -> None:
    """Write and remove a small object, so that a bad store is known at once."""
    key = f"probe-{os.getpid()}"
    run.store.put_bytes(key, b"epg")
    run.store.delete(key)


def prepare_folder(folder: Path) -> None:
    """Make the local folder of a run, with empty events and an empty place for kfp."""
    try:
        shutil.rmtree(folder / KFP, ignore_errors=True)
        (folder / KFP / "tmp").mkdir(parents=True)
        (folder / EVENTS).write_bytes(b"")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): choose another place with --output"
        ) from error


def _data_overrides(request: RunRequest, given: dict[str, Any]) -> dict[str, Any]:
    """What `--data`, `--classes` and `--limit` mean for a recipe; the number of classes follows."""
    from epg.data.sources import absolute_spec, count_classes, is_quick

    found: dict[str, Any] = {}
    if request.data is not None:
        found["data.source"] = absolute_spec(request.data)
    if request.limit is not None:
        found["data.limit"] = request.limit
    classes = given.get("data.classes")
    if request.classes is not None:
        classes = [name.strip() for name in request.classes.split(",") if name.strip()]
        found["data.classes"] = classes
    if "data.num_classes" in given:
        return found
    if isinstance(classes, list):
        found["data.num_classes"] = len(classes)
    elif request.data is not None:  # what would take long the shards will tell
        quick = is_quick(request.data)
        found["data.num_classes"] = count_classes(request.data) if quick else None
    return found


def _absolute(store: str) -> str:
    return store if "://" in store else str(Path(store).expanduser().absolute())


def _environment(request: RunRequest, run: Run) -> dict[str, str]:
    from epg.evaluation.features.weights import WEIGHTS, require_weights

    found: dict[str, str] = {}
    networks: list[str] = list(run.recipe.evaluate.networks)
    if request.inception_weights:
        networks.append("inception")  # a file that is named must be there, also if nobody needs it
        path = str(Path(request.inception_weights).expanduser().absolute())
        found[WEIGHTS["inception"].variable] = path
    require_weights(networks, run.store_uri, {**os.environ, **found})
    if request.metrics_port is not None:
        found["EPG_METRICS_PORT"] = str(request.metrics_port)
    if "://" in run.store_uri and "EPG_S3_DEADLINE" not in os.environ:
        # The store has answered here: each step is a process that would take it for a stranger.
        found["EPG_S3_DEADLINE"] = "120"
    # The interpreter that runs this runs the steps: `python3` of a step's command leads to it.
    folder = str(Path(sys.executable).parent)
    found["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    return found

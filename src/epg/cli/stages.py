"""One stage by itself, on the results that its run already has in the store."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epg.cli.options import (
    ObjectiveOption,
    RecipeOption,
    RunNameOption,
    SetOption,
    StoreOption,
    with_examples,
)
from epg.errors import UserError
from epg.protocol import HASHES
from epg.text import printable

if TYPE_CHECKING:
    from epg.runs.record import StageRecord
    from epg.runs.run import Run


def add_stage_commands(app: typer.Typer) -> None:
    """Add a command of the same name for every stage that works on a run."""
    _add(
        app, "shard", "Write the recipe's images as tar shards.", "--set data.source=folder:photos"
    )
    _add(app, "reference-statistics", "Describe the held-out images, to compare with.")
    _add(app, "pretrain", "Pre-train the encoder; resumes by itself.", "--set pretrain.steps=100")
    _add_objective(app, "finetune", "Fine-tune the encoder into a generator.")
    app.command("evaluate")(evaluate)
    _add_objective(app, "gate", "Say whether a model is good enough to register.")
    app.command("register")(register)
    _add(app, "report", "Gather a run's results into one HTML page.")


def _add(app: typer.Typer, stage: str, summary: str, example: str = "") -> None:
    @with_examples(f"epg {stage} --recipe digits", f"epg {stage} --recipe digits {example}".strip())
    def command(
        recipe: RecipeOption,
        settings: SetOption = None,
        store: StoreOption = "runs",
        run_name: RunNameOption = None,
    ) -> None:
        """Replaced by the summary."""
        run_stage(stage, open_run(recipe, settings, store, run_name))

    _register(app, stage, summary, command)


def _add_objective(app: typer.Typer, stage: str, summary: str) -> None:
    @with_examples(f"epg {stage} --recipe digits --objective denoising")
    def command(
        recipe: RecipeOption,
        objective: ObjectiveOption,
        settings: SetOption = None,
        store: StoreOption = "runs",
        run_name: RunNameOption = None,
    ) -> None:
        """Replaced by the summary."""
        run_stage(stage, open_run(recipe, settings, store, run_name), objective=objective)

    _register(app, stage, summary, command)


def _register(app: typer.Typer, stage: str, summary: str, command: Callable[..., None]) -> None:
    examples = (command.__doc__ or "").partition("\n")[2]
    app.command(stage, help=f"{summary}\n{examples}")(command)


@with_examples(
    "epg evaluate --recipe digits --objective denoising",
    "epg evaluate --samples samples.npz --reference VIRTUAL_imagenet256_labeled.npz",
    "epg evaluate --images PNGS/ --recipe digits --out figures.json",
)
def evaluate(
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="NAME|FILE", help="Whose model, or networks.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", metavar="NAME", help="denoising or consistency.")
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option("--samples", metavar="NPZ", help="Anybody's images: arr_0, and arr_1 labels."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="The same as files.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="NPZ|FOLDER", help="ADM's statistics, or images."),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option("--networks", metavar="A,B", help="Without a recipe; default: inception."),
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", metavar="RULE", help="balanced, random or unknown.")
    ] = "",
    few: Annotated[bool, typer.Option("--few", help="Also fewer images than features.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="JSON", help="Write the figures here, too.")
    ] = None,
    settings: SetOption = None,
    store: StoreOption = "runs",
    run_name: RunNameOption = None,
) -> None:
    """Judge a run's generator, or anybody's images."""
    if samples is None and images is None:
        if recipe is None or objective is None:
            raise UserError(
                "say what is to be judged: --recipe with --objective (a run's generator), "
                "--samples FILE.npz, or --images FOLDER"
            )
        run_stage("evaluate", open_run(recipe, settings, store, run_name), objective=objective)
        return
    if samples is not None and images is not None:
        raise UserError("--samples and --images: give one of them")
    if networks is not None and recipe is not None:
        raise UserError("--networks is for images without a recipe: --set evaluate.networks=[A,B]")
    if objective is not None:
        raise UserError("--objective names a run's generator: leave it out for given images")
    from epg.stages.measure import Request, measure, write_figures

    chosen = samples if samples is not None else images
    assert chosen is not None
    request = Request(
        chosen,
        reference,
        open_run(recipe, settings, store, run_name) if recipe is not None else None,
        tuple(name.strip() for name in networks.split(",")) if networks else ("inception",),
        labels,
        few,
        store,
    )
    found = measure(request)
    if out is not None:
        write_figures(found, out)
    show_metrics(found["metrics"], found["details"])


@with_examples(
    "epg register --recipe digits --objective denoising",
    "epg register --recipe digits --objective denoising --version v1.10",
)
def register(
    recipe: RecipeOption,
    objective: ObjectiveOption,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="Default: the next free one.")
    ] = None,
    settings: SetOption = None,
    store: StoreOption = "runs",
    run_name: RunNameOption = None,
) -> None:
    """Put a model with its card into the registry."""
    more: dict[str, Any] = {"version": version} if version is not None else {}
    run = open_run(recipe, settings, store, run_name)
    run_stage("register", run, objective=objective, **more)


def open_run(recipe: str, settings: list[str] | None, store: str, run_name: str | None) -> Run:
    """Open the run that a stage command names."""
    from epg.config.loading import load_recipe, parse_overrides
    from epg.runs.run import Run

    overrides = parse_overrides(settings or [])
    name = run_name if run_name is not None else load_recipe(recipe, overrides).name
    return Run.open(recipe, overrides, store, name)


def run_stage(stage: str, run: Run, *, quiet: bool = False, **arguments: Any) -> StageRecord:
    """Do one stage, alone on its run, and print its metrics.

    Args:
        stage: name of the command, such as `reference-statistics`.
        run: the run.
        quiet: print nothing.
        arguments: what the stage takes besides the run, such as `objective`.
    """
    from epg.stages.catalog import find_stage
    from epg.stages.training import leading

    found = find_stage(stage, arguments.get("objective", ""))
    function = found.function()
    reading_only = stage == "report"
    with contextlib.ExitStack() as stack:
        if found.kind == "training" and not stack.enter_context(leading()):
            raise typer.Exit  # this process has followed to the end
        if not reading_only:
            run = stack.enter_context(held(run, stage))
        record = function(run, **arguments)
    if not quiet:
        show_metrics(record.metrics, record.details)
    return record


@contextlib.contextmanager
def held(run: Run, command: str) -> Iterator[Run]:
    """Keep others off a run for as long as a command works on it; yield the run to work on.

    Raises:
        InUse: somebody else is at it.
    """
    from epg.session.preflight import run_lock
    from epg.store.held import HeldStore

    with run_lock(run, f"epg {command}") as lock:
        yield replace(run, store=HeldStore(run.store, lock))


def show_metrics(metrics: dict[str, Any], details: Mapping[str, Any] | None = None) -> None:
    """Print names and values, aligned; of figures with a protocol also how they were measured."""
    if details is not None and HASHES in details:
        from epg.console.tables import figure_lines

        for line in figure_lines(metrics, details):
            sys.stdout.write(printable(f"  {line}".rstrip()) + "\n")
        return
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        shown = f"{value:,}" if isinstance(value, int) and abs(value) > 9999 else value
        shown = f"{value:.6g}" if isinstance(value, float) else shown
        sys.stdout.write(printable(f"  {name:<{width}}  {shown}") + "\n")

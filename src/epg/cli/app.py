"""The command line. Every command imports what it needs inside its own body."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from epg.cli.checkpoints import add_checkpoint_commands
from epg.cli.cluster import add_cluster_commands
from epg.cli.costs import add_cost_commands
from epg.cli.data import add_data_commands
from epg.cli.export import export
from epg.cli.measuring import add_measuring_commands
from epg.cli.options import with_examples
from epg.cli.run import run
from epg.cli.stages import add_stage_commands
from epg.text import printable

app = typer.Typer(
    name="epg",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from epg import __version__

        print(f"epg {__version__}")
        raise typer.Exit


@app.callback()
@with_examples(
    "The whole pipeline on this machine, on real handwritten digits:",
    "epg run --recipe digits",
    "Look at runs/digits/report.html, then make digits of your own:",
    "epg sample --model digits-denoising --classes 0,1,2 --num 64 --out grid.png",
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")
    ] = False,
) -> None:
    """Pixel-space image generators by two-stage end-to-end training (EPG)."""


app.command()(run)


@app.command()
@with_examples(
    "epg sample --model digits-denoising --classes 0,1,2 --num 64 --out grid.png",
    "epg sample --model digits-consistency:v1 --num 1000 --out samples.npz",
    "epg sample --model digits-denoising --steps 64 --guidance-scale 3 --out grid.png",
    "epg sample --model digits-denoising --num 5000 --labels random --out samples.npz",
    "epg sample --model imagenet256-xl16-denoising --classes n01440764,goldfish --out PNGS/",
)
def sample(
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME[:VERSION]|PATH", help="Registered, or a file."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="PLACE", help="samples.npz, grid.png, or a folder."),
    ],
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="A,B,...", help="Names, synsets, indices; default: all."),
    ] = None,
    num: Annotated[int, typer.Option("--num", metavar="N", help="How many images.")] = 64,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="Noise levels; default: the recipe's."),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", metavar="W", help="1 is none; default: the recipe's."),
    ] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", metavar="NAME", help="heun or euler.")
    ] = None,
    clamp: Annotated[
        str | None,
        typer.Option("--clamp", metavar="NAME", help="valid-range, unit ([-1, 1]) or none."),
    ] = None,
    final_step: Annotated[
        bool | None,
        typer.Option("--final-step/--no-final-step", help="Go on from the last level to 0."),
    ] = None,
    labels: Annotated[
        str,
        typer.Option("--labels", metavar="HOW", help="balanced, random, or a file of indices."),
    ] = "balanced",
    ema: Annotated[
        float | None,
        typer.Option("--ema", metavar="RATE", help="Which average; default: the one judged."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Same seed, same images.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Images at once.")
    ] = 256,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda; default: the best.")
    ] = None,
    registry: Annotated[
        str, typer.Option("--registry", metavar="URI", help="Where names are looked up.")
    ] = "runs/registry",
) -> None:
    """Generate images with a registered model or a file."""
    from epg.cli.stages import show_metrics
    from epg.registry import open_registry
    from epg.stages.sample import sample as sample_images

    found = sample_images(
        model,
        classes=[name.strip() for name in classes.split(",")] if classes else None,
        num=num,
        out=out,
        registry=open_registry(registry),
        steps=steps,
        guidance_scale=guidance_scale,
        solver=solver,
        clamp=clamp,
        final_euler_step=final_step,
        labels=labels,
        ema=ema,
        seed=seed,
        batch_size=batch_size,
        device=device,
    )
    print(printable(f"{out}: {num} images"))
    show_metrics(found)


add_cost_commands(app)
add_stage_commands(app)
add_measuring_commands(app)
app.command()(export)


@app.command("compile")
@with_examples(
    "epg compile",
    "epg compile --check",
)
def compile_command(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 when one is stale or faulty.")
    ] = False,
) -> None:
    """Compile components and pipelines to YAML."""
    from epg.cluster.compile.compiling import compile_all, find_faults, stale_files

    if not check:
        for path in compile_all():
            print(f"wrote {path}")
        return
    stale = stale_files()
    for path in stale:
        print(f"stale: {path} (run `epg compile`)", file=sys.stderr)
    faults = find_faults()
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    raise typer.Exit(1 if stale or faults else 0)


add_data_commands(app)
add_checkpoint_commands(app)
add_cluster_commands(app)


def main() -> None:
    """Entry point of `epg`: `--debug` may stand anywhere on the line."""
    from epg.cli.guarded import guarded

    for stream in (sys.stdout, sys.stderr):
        # What a terminal of another alphabet cannot show is escaped, not fatal after hours.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    sys.exit(
        guarded(lambda: app(arguments, prog_name="epg", standalone_mode=False) or 0, debug=debug)
    )

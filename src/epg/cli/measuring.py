"""Commands around the measuring of images: weights of the networks that look at them."""

from __future__ import annotations

from typing import Annotated

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
from epg.text import printable


def add_measuring_commands(app: typer.Typer) -> None:
    """Add them."""
    app.command()(weights)
    app.command()(sweep)


@with_examples(
    "epg sweep --recipe digits --objective denoising --guidance-scale 1,1.5,2,3 --samples 1000",
    "epg sweep --recipe digits --objective denoising --steps 12,18,32 --interval 0.19:1.61,0:80",
)
def sweep(
    recipe: RecipeOption,
    objective: ObjectiveOption,
    guidance_scale: Annotated[
        str | None, typer.Option("--guidance-scale", metavar="W,...", help="Scales to try.")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="LOW:HIGH,...", help="Guidance intervals to try."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="N,...", help="Noise levels to try.")
    ] = None,
    ema: Annotated[
        str | None, typer.Option("--ema", metavar="RATE,...", help="Averages to try.")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=0, help="Images of each setting.")
    ] = 0,
    figure: Annotated[
        str, typer.Option("--figure", metavar="NAME", help="Which is to be least.")
    ] = "",
    settings: SetOption = None,
    store: StoreOption = "runs",
    run_name: RunNameOption = None,
) -> None:
    """Find the best sampling settings of a run's generator."""
    from epg.cli.stages import held, open_run
    from epg.stages.sweep import sweep as sweep_settings
    from epg.stages.sweep_grid import read_grid

    given = {
        "guidance_scale": _numbers("--guidance-scale", guidance_scale),
        "guidance_interval": _intervals(interval),
        "steps": _numbers("--steps", steps),
        "ema": _numbers("--ema", ema),
    }
    grid = read_grid(given)
    with held(open_run(recipe, settings, store, run_name), "sweep") as run:
        record = sweep_settings(run, objective, grid, num_samples=samples, figure=figure)
    found = record.details
    print(printable(f"best {found['figure']}: {record.metrics['best']:.6g}"))
    for key, value in found["overrides"].items():
        print(printable(f"  --set {key}={value}"))
    print("measure the final figure with them: epg evaluate takes other seeds")


def _numbers(option: str, given: str | None) -> list[float]:
    try:
        return [float(word) for word in given.split(",")] if given else []
    except ValueError:
        raise UserError(f"{option} {given}: numbers with commas between them") from None


def _intervals(given: str | None) -> list[tuple[float, float]]:
    try:
        pairs = [word.split(":") for word in given.split(",")] if given else []
        return [(float(low), float(high)) for low, high in pairs]
    except ValueError:
        raise UserError(f"--interval {given}: pairs such as 0.19:1.61, with commas") from None


@with_examples(
    "epg weights inception",
    "epg weights inception --from weights-inception-2015-12-05-6726825d.pth",
    "epg weights inception --store s3://epg/runs",
)
def weights(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="inception or dinov2.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PATH|URL", help="The published file; default: its URL."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URI", help="Store of the runs; default: your cache."),
    ] = None,
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="DIGEST", help="Of the published file.")
    ] = "",
) -> None:
    """Fetch the weights of a published feature network."""
    from epg.stages.weights import install_weights

    print(printable(install_weights(network, source=source, store=store, sha256=sha256)))

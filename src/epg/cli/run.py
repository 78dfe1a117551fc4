"""`epg run`: the whole pipeline on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from epg.cli.options import RecipeOption, RunNameOption, SetOption, with_examples


@with_examples(
    "epg run --recipe digits",
    "epg run --recipe digits --run-name quick --set pretrain.steps=100 --no-consistency",
    "epg run --recipe digits --run-name mine --data folder:photos",
    "epg run --recipe digits --data folder:photos --classes cat,dog --limit 50",
    "epg run --recipe digits --store minio://127.0.0.1:9000/epg/runs",
    "epg run --recipe digits --from evaluate-denoising",
)
def run(
    recipe: RecipeOption,
    run_name: RunNameOption = None,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder that holds runs.")
    ] = "runs",
    settings: SetOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="SOURCE", help="Images, e.g. folder:PATH, a sub-folder per class."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="A,B,...", help="Use these of its classes only."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="Use N images of each class and split."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URI", help="Where results go; default: the output DIR."),
    ] = None,
    denoising: Annotated[bool, typer.Option(help="The diffusion model.")] = True,
    consistency: Annotated[bool, typer.Option(help="The one-step consistency model.")] = True,
    inception_weights: Annotated[
        str | None,
        typer.Option("--inception-weights", metavar="PATH", help="For recipes that measure FID."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", metavar="N", min=0, max=65535, help="0: any free port."),
    ] = None,
    begin_at: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Do this stage and what follows anew."),
    ] = None,
) -> None:
    """Run every stage of a recipe, and show it live.

    The same command resumes an interrupted run and does not repeat finished stages.
    """
    from epg.session.execute import execute
    from epg.session.preflight import RunRequest

    chosen = {"denoising": denoising, "consistency": consistency}
    request = RunRequest(
        recipe=recipe,
        run_name=run_name,
        output=output,
        settings=settings or [],
        data=data,
        classes=classes,
        limit=limit,
        store=store,
        objectives=[name for name, wanted in chosen.items() if wanted],
        inception_weights=inception_weights,
        metrics_port=metrics_port,
        begin_at=begin_at,
    )
    raise typer.Exit(execute(request))

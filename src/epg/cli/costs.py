"""What a recipe is, costs and takes: recipes, show-recipe, count-gflops, plan."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from epg.cli.options import RecipeOption, SetOption, StoreOption, with_examples
from epg.text import printable

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_cost_commands(app: typer.Typer) -> None:
    """Add what needs a recipe alone."""
    for command in (recipes, show_recipe, count_gflops, plan):
        app.command()(command)


def recipes() -> None:
    """List the recipes that travel with the package."""
    from epg.config.loading import available_recipes, load_recipe
    from epg.console.tables import aligned
    from epg.evaluation.costs import costs
    from epg.numbers import short, significant

    rows = [["", "Parameters", "GMACs", "Pixels", "Data"]]
    lines = {}
    for name in available_recipes():
        recipe = load_recipe(name)
        cost, data = costs(recipe.with_assumed_classes()), recipe.data
        pixels = f"{data.image_size}²" + ("" if data.channels == 3 else " grey")
        parameters = short(cost["parameters_generator"])
        rows.append(
            [name, parameters, significant(cost["gmacs"]), pixels, data.source.partition(":")[0]]
        )
        lines[name] = recipe.description.partition("\n")[0].removesuffix(".")
    head, *listed = aligned(rows)
    print(head)
    for text, line in zip(listed, lines.values(), strict=True):
        print(f"{text}  {line}".rstrip())


@with_examples(
    "epg show-recipe digits --set pretrain.steps=100 > mine.yaml",
    "epg run --recipe mine.yaml --run-name mine",
)
def show_recipe(
    recipe: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A recipe.")],
    settings: SetOption = None,
) -> None:
    """Print a recipe, fully resolved."""
    from epg.config.loading import dump_recipe, load_recipe, parse_overrides

    print(dump_recipe(load_recipe(recipe, parse_overrides(settings or []))), end="")


@with_examples(
    "epg count-gflops --recipe imagenet256_xl16",
    "epg count-gflops --recipe digits --json",
)
def count_gflops(
    recipe: RecipeOption,
    settings: SetOption = None,
    store: StoreOption = "runs",
    run_name: Annotated[
        str | None,
        typer.Option("--run-name", metavar="NAME", help="Store the numbers in this run, too."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count parameters and GFLOPs of a recipe's models, beside published ones."""
    from epg.config import OBJECTIVES
    from epg.config.loading import load_recipe, parse_overrides
    from epg.console.tables import cost_lines, published_lines
    from epg.evaluation.costs import generators
    from epg.published import TABLES, published, published_table

    if run_name is not None:
        from epg.cli.stages import open_run, run_stage

        run_stage("count-gflops", open_run(recipe, settings, store, run_name), quiet=as_json)
    loaded = load_recipe(recipe, parse_overrides(settings or []))
    rows = generators(loaded.with_assumed_classes())
    size = loaded.data.image_size
    found = (published_table(size, one_step=each == "consistency") for each in OBJECTIVES)
    tables = [table for table in found if table is not None]
    if as_json:
        from dataclasses import asdict

        beside = [{**asdict(row), "source": row.source} for t in tables for row in published(t)]
        content = {"recipe": loaded.name, "generators": rows, "published": beside}
        print(json.dumps(content, ensure_ascii=False, indent=1))
        return
    print(loaded.name)
    for line in cost_lines(rows):
        print(printable(line))
    for table in tables:
        print()
        for line in published_lines(TABLES[table], published(table)):
            print(line)


@with_examples(
    "epg plan --recipe imagenet256_xl16 --gpus 8 --gpu-type h100 --price 2.50",
    "epg plan --recipe imagenet256_g16 --gpus 16 --gpu-type h200 --json",
)
def plan(
    recipe: RecipeOption,
    settings: SetOption = None,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", min=1, max=100_000)] = 8,
    gpu_type: Annotated[
        str,
        typer.Option("--gpu-type", metavar="NAME", help="a100, h100, h200, b200, l40s, rtx4090."),
    ] = "h100",
    price: Annotated[
        float | None, typer.Option("--price", metavar="P", help="Of one GPU-hour.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", metavar="F", help="Part of the peak; default: as measured."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a recipe takes: GPU-hours, memory, bytes, money; nothing is started."""
    from epg.config.loading import load_recipe, parse_overrides
    from epg.console.tables import plan_lines
    from epg.evaluation.planning import make_plan

    loaded = load_recipe(recipe, parse_overrides(settings or []))
    made = make_plan(
        loaded.with_assumed_classes(), gpus=gpus, gpu_type=gpu_type, price=price, share=share
    )
    if as_json:
        print(json.dumps(made.as_dict(), indent=1))
        return
    for line in plan_lines(made):
        print(printable(line))

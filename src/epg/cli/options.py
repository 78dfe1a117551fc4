"""Options that several commands share, each declared once, and examples for the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

F = TypeVar("F", bound=Callable[..., Any])

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="A packaged recipe (`epg recipes` lists them) or the path of a YAML file.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting, e.g. pretrain.steps=100. Repeat."
    ),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store", metavar="URI", help="A folder, s3://BUCKET/PREFIX or minio://HOST:PORT/BUCKET."
    ),
]
RunNameOption = Annotated[
    str | None,
    typer.Option("--run-name", metavar="NAME", help="Name of the run; default: the recipe's."),
]
ObjectiveOption = Annotated[
    str, typer.Option("--objective", metavar="NAME", help="denoising or consistency.")
]


def with_examples(*lines: str) -> Callable[[F], F]:
    """Append lines to a command's help, unwrapped; commands are indented, words are not."""

    def add(function: F) -> F:
        # The backspace is click's mark for a paragraph that keeps its lines.
        shown = "\n".join(f"{' ' * (8 if line.startswith('epg ') else 4)}{line}" for line in lines)
        function.__doc__ = f"{(function.__doc__ or '').rstrip()}\n\n    \b\n{shown}\n"
        return function

    return add

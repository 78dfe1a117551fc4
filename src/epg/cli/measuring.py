"""Commands around the measuring of images: weights of the networks that look at them."""

from __future__ import annotations

from typing import Annotated

import typer

from epg.cli.options import with_examples
from epg.text import printable


def add_measuring_commands(app: typer.Typer) -> None:
    """Add them."""
    app.command()(weights)


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

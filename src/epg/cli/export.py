"""epg export: what leaves for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epg.cli.options import StoreOption, with_examples
from epg.text import printable


@with_examples(
    "epg export --encoder digits --format timm --out encoder-timm",
    'then in Python: timm.create_model("local-dir:encoder-timm", pretrained=True)',
)
def export(
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="RUN|FILE", help="A run, or an encoder's file.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write into.")],
    form: Annotated[str, typer.Option("--format", metavar="NAME", help="timm.")] = "timm",
    store: StoreOption = "runs",
) -> None:
    """Write a pre-trained encoder as a timm VisionTransformer."""
    from epg.stages.export import export_encoder

    for path in export_encoder(encoder, out=out, store=store, form=form):
        print(printable(str(path)))

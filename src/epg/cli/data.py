"""`epg data`: look at a set of shards, and check it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from epg.cli.options import with_examples
from epg.text import printable

ManifestArgument = Annotated[
    str, typer.Argument(metavar="MANIFEST|RUN", help="Path or URI of a manifest.json, or of a run.")
]
data = typer.Typer(name="data", no_args_is_help=True, rich_markup_mode=None)


def add_data_commands(app: typer.Typer) -> None:
    """Add `epg data` and what is below it."""
    app.add_typer(data)


@data.callback()
@with_examples("epg data inspect runs/digits", "epg data verify runs/digits --deep")
def look() -> None:
    """Look at a set of shards, and check it."""


@data.command()
@with_examples(
    "epg data inspect runs/digits",
    "epg data inspect minio://127.0.0.1:9000/epg/runs/digits --out data.html",
)
def inspect(
    manifest: ManifestArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the data report: .html, or .png samples."
        ),
    ] = None,
) -> None:
    """Say what is in the shards: counts, bytes, sizes, conversions, refusals."""
    from epg.stages.data_report import figures, inspected, open_manifest

    store, found = open_manifest(manifest)
    lines = [("source", found.source), *figures(found)]
    for title, counted in (
        ("converted", found.report.get("converted", {})),
        ("refused", found.report.get("skipped", {})),
        ("left out", found.report.get("ignored", {})),
    ):
        lines += [(title, f"{count:,} × {reason}") for reason, count in counted.items()]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        sys.stdout.write(f"  {name:<{width}}  {printable(value)}\n")
    if out is not None:
        inspected(store, found, out)
        sys.stdout.write(f"  {'written':<{width}}  {printable(str(out))}\n")


@data.command()
@with_examples("epg data verify runs/digits", "epg data verify runs/digits --deep")
def verify(
    manifest: ManifestArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: digests, labels, every image.")
    ] = False,
) -> None:
    """Check that all shards are there as they were written; exit 2 where they are not."""
    from epg.data.inspection import faults
    from epg.errors import UserError
    from epg.stages.data_report import open_manifest
    from epg.telemetry.progress import StageReporter

    store, found = open_manifest(manifest)
    reporter = StageReporter("verify")
    wrong = faults(
        store, found, deep, lambda done, total: reporter.progress(done, total, unit="shards")
    )
    if wrong:
        for line in wrong[:20]:
            sys.stdout.write(f"  {printable(line)}\n")
        more = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{manifest}: {wrong[0]}{more}; `epg shard` with the run's recipe writes again what is "
            "missing or cut"
        )
    shards = sum(len(of_split) for of_split in found.splits.values())
    what = "every byte of" if deep else "sizes of"
    sys.stdout.write(f"  all is well: {what} {shards:,} shards\n")

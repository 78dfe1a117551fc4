"""`epg checkpoints`: what a run's training stages have saved, and whether it can be used."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from epg.cli.options import with_examples
from epg.text import printable


def add_checkpoint_commands(app: typer.Typer) -> None:
    """Add `epg checkpoints`."""
    app.command()(checkpoints)


@with_examples("epg checkpoints runs/digits", "epg checkpoints minio://host/runs/xl16 --verify")
def checkpoints(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Path or URI of a run.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte and compare its digest.")
    ] = False,
) -> None:
    """List the checkpoints of a run; exit 2 where one cannot be used."""
    from epg.errors import UserError
    from epg.numbers import short
    from epg.stages.catalog import stages_of_kind
    from epg.store import open_store
    from epg.telemetry.progress import StageReporter
    from epg.training.kept import kept_checkpoints

    store = open_store(run)
    bad, count = [], 0
    for stage in stages_of_kind("training"):
        tell = partial(StageReporter(stage.name).progress, unit="bytes")
        place = store.sub(f"{stage.name}/checkpoints")
        for kept in kept_checkpoints(place, verify, tell if verify else None):
            count += 1
            state = kept.fault or ("verified" if verify else "there")
            sys.stdout.write(
                printable(f"  {stage.name}  step {kept.step:,}  {short(kept.size)}B  {state}")
                + "\n"
            )
            if kept.fault and not kept.torn:
                bad.append(f"{stage.name}/checkpoints/{kept.folder}")
    if not count:
        sys.stdout.write("  none: checkpoints are removed once their stage is done\n")
    if bad:
        raise UserError(
            f"{store.uri}/{bad[0]}: this checkpoint cannot be used"
            f"{f', nor {len(bad) - 1} more' if len(bad) > 1 else ''}: training goes on from the "
            "one before; put back a copy if there is one"
        )

"""`epg checkpoints`: what a run's training stages have saved, and whether it can be used."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from epg.cli.options import with_examples
from epg.text import printable

if TYPE_CHECKING:
    from epg.store import Store
    from epg.training.kept import Kept


def add_checkpoint_commands(app: typer.Typer) -> None:
    """Add `epg checkpoints`."""
    app.command()(checkpoints)


@with_examples(
    "epg checkpoints runs/digits",
    "epg checkpoints minio://host/runs/xl16 --verify",
    "epg checkpoints runs/given-up --keep 0",
)
def checkpoints(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Path or URI of a run.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte and compare its digest.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Verify, then remove all but the newest so many good ones of each stage.",
        ),
    ] = None,
) -> None:
    """List the checkpoints of a run; exit 2 where one cannot be used."""
    from epg.errors import UserError
    from epg.numbers import short
    from epg.stages.catalog import stages_of_kind
    from epg.store import open_store

    store = open_store(run)
    verify = verify or keep is not None
    bad, count = [], 0
    for stage in stages_of_kind("training"):
        found, gone = _of_stage(store, stage.name, verify, keep)
        count += len(found)
        for kept in found:
            state = kept.fault or ("verified" if verify else "there")
            told = f"removed ({state})" if kept in gone else state
            sys.stdout.write(
                printable(f"  {stage.name}  step {kept.step:,}  {short(kept.size)}B  {told}") + "\n"
            )
            if kept.fault and not kept.torn and kept not in gone:
                bad.append(f"{stage.name}/checkpoints/{kept.folder}")
    if not count:
        sys.stdout.write("  none: checkpoints are removed once their stage is done\n")
    if bad:
        raise UserError(
            f"{store.uri}/{bad[0]}: this checkpoint cannot be used"
            f"{f', nor {len(bad) - 1} more' if len(bad) > 1 else ''}: training goes on from the "
            "one before; put back a copy if there is one"
        )


def _of_stage(
    store: Store, stage: str, verify: bool, keep: int | None
) -> tuple[list[Kept], list[Kept]]:
    """Return a stage's checkpoints, newest first, and those of them that were removed."""
    from epg.store.held import HeldStore
    from epg.store.lease import Lease
    from epg.telemetry.progress import StageReporter
    from epg.training.kept import kept_checkpoints, prune

    tell = partial(StageReporter(stage).progress, unit="bytes") if verify else None
    place = store.sub(f"{stage}/checkpoints")
    if keep is None or next(iter(place.list()), None) is None:
        return kept_checkpoints(place, verify, tell), []
    # The lease of who trains: nobody writes a checkpoint while others are removed.
    with Lease(store, f"leases/{stage}", f"epg checkpoints --keep {keep}") as lease:
        found = kept_checkpoints(place, verify, tell)
        return found, prune(HeldStore(place, lease), found, keep)

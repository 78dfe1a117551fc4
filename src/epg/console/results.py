"""What is said at the end of a run: the table of both models, where things lie, what to try."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from epg.console.board import Board
from epg.errors import UserError
from epg.measures import measured
from epg.runs.handover import fetch_output
from epg.runs.record import StageRecord, load_record
from epg.runs.run import Run
from epg.stages.catalog import OBJECTIVES
from epg.text import printable

if TYPE_CHECKING:
    from rich.table import Table


def results_table(run: Run, stages: list[str]) -> Table | None:
    """Return the measures of the models that this run made; None when there are none."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    records = _records(run, stages, "evaluate")
    if not records:
        return None
    table = RichTable(
        title=f"Results of {run.name}", title_justify="left", title_style="bold", box=SIMPLE_HEAD
    )
    table.add_column("")
    for objective in records:
        table.add_column(objective, justify="right")
    for measure in measured(name for record in records.values() for name in record.metrics):
        cells = [record.metrics.get(measure.name) for record in records.values()]
        table.add_row(measure.label, *(printable(measure.write(cell)) for cell in cells))
    return table


def model_lines(run: Run, stages: list[str]) -> list[str]:
    """Say of each model where it was registered, or why it was not."""
    lines = []
    registered = _records(run, stages, "register")
    for objective, gate in _records(run, stages, "gate").items():
        found = registered.get(objective)
        if gate.metrics.get("verdict") != "pass":
            reason = gate.metrics.get("reason") or "the gate said no"
            lines.append(f"{objective}: not registered: {reason}")
        elif found is not None:
            named = f"{found.metrics['model']}:{found.metrics['version']}"
            lines.append(f"{objective}: registered {named} ({found.metrics['uri']})")
    return lines


def report_path(run: Run, folder: Path) -> Path | None:
    """Return a local file with the run's report, copied there when the store is far away."""
    record = load_record(run, "report")
    if record is None:
        return None
    local = folder / "report.html"
    try:
        return fetch_output(run, record, "report", local)
    except UserError:
        return None


def next_command(run: Run, stages: list[str]) -> str | None:
    """Return a command that samples from a model that was registered."""
    for record in _records(run, stages, "register").values():
        model = f"{record.metrics['model']}:{record.metrics['version']}"
        command = ["epg", "sample", "--model", model, *_some_classes(run), "--num", "64"]
        if run.store_uri != str(Path("runs").absolute()):
            command += ["--registry", run.registry.uri]
        return shlex.join([*command, "--out", "grid.png"])
    return None


def _some_classes(run: Run) -> list[str]:
    """Ask for the first classes of the run's images, where their names can stand in a list."""
    record = load_record(run, "shard")
    names = record.details.get("classes", [])[:3] if record is not None else []
    plain = all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
    return ["--classes", ",".join(names)] if names and plain else []


def failure_lines(board: Board, log: Path, begin: int) -> list[str]:
    """Say which stage failed and why, in one line each.

    Args:
        board: the stages; a stage that met a bug left no reason there.
        log: the run's log.
        begin: where in the log this run began.
    """
    told = [s for s in board.failed if s.text]
    if told:
        return [f"{state.name}: {state.text}" for state in told]
    where = ", ".join(state.name for state in board.failed) or "the run"
    return [f"{where}: {_last_words(log, begin)}"]


def _last_words(log: Path, begin: int) -> str:
    """Return the last line of the log that ends a traceback."""
    try:
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    errors = [line.strip() for line in lines if _looks_like_error(line.strip())]
    return errors[-1][:300] if errors else "ended without a word: killed, or out of memory?"


def _looks_like_error(line: str) -> bool:
    """Tell the last line of a traceback: `ValueError: ...`, `package.SomeError: ...`."""
    name = line.partition(":")[0].rpartition(".")[2]
    return name.isidentifier() and name.endswith(("Error", "Exception", "Interrupt"))


def _records(run: Run, stages: list[str], step: str) -> dict[str, StageRecord]:
    found: dict[str, StageRecord] = {}
    for objective in OBJECTIVES:
        stage = f"{step}-{objective}"
        if stage in stages and (record := load_record(run, stage)) is not None:
            found[objective] = record
    return found

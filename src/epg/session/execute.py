"""One `epg run`: checks, starts the compiled pipeline, shows it, and says how it ended."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from epg.console import results
from epg.console.board import Board, EventTail
from epg.console.views import open_view
from epg.errors import UserError
from epg.guard import LAUNCHER_VARIABLE, launcher_name
from epg.numbers import duration
from epg.session.preflight import (
    EVENTS,
    KFP,
    LOG,
    RunPlan,
    RunRequest,
    make_plan,
    prepare_folder,
    probe,
    run_lock,
)
from epg.session.process import GRACE_SECONDS, HostProcess, Interrupted, signals_as_interrupts
from epg.stages.afresh import begin_again
from epg.stages.settings import check_unchanged
from epg.text import printable

if TYPE_CHECKING:
    from epg.store.lease import Lease

_POLL_SECONDS = 0.1
USER_ERROR, CRASH = 2, 1


def execute(request: RunRequest) -> int:
    """Run a recipe from end to end; return the exit code of the command.

    0: all stages ended well (a model that its gate refused included). 1: a stage met a bug.
    2: a stage named something that the user can mend. 128 + n: stopped by signal n.

    Raises:
        UserError: refused before anything started.
    """
    begun = time.time()
    _say(f"epg run: {request.recipe.splitlines()[0]}: checking")
    plan = make_plan(request)
    with signals_as_interrupts():
        try:
            with run_lock(plan.run, f"epg run --run-name {plan.run.name}") as lock:
                return _run_locked(plan, request, begun, lock)
        except Interrupted as interrupt:  # before the host was started
            return 128 + interrupt.number


def _run_locked(plan: RunPlan, request: RunRequest, begun: float, lock: Lease) -> int:
    probe(plan.run)
    prepare_folder(plan.folder)
    if request.begin_at is not None:
        gone = begin_again(plan.run, request.begin_at)
        _say(f"thrown away: {', '.join(gone)}")
    check_unchanged(plan.run)
    _say(f"run {plan.run.name} in {plan.folder}, store {plan.run.store_uri}")
    board = Board(plan.stages)
    log = plan.folder / LOG
    position = _open_log(log)
    view = open_view(sys.stdout, board)
    tail = EventTail(plan.folder / EVENTS)
    host = None
    try:
        try:
            host = HostProcess(_write_spec(plan), log, _environment(plan))
            code = None
            while code is None:
                code = host.poll()
                lock.check()
                for event in tail.read():
                    board.take(event)
                    view.update(board, event)
                view.update(board)
                if code is None:
                    time.sleep(_POLL_SECONDS)
        except Interrupted as interrupt:
            view.close(board)
            return _stop(host, interrupt, plan)
        board.close()
        view.close(board)
    finally:
        if host is not None:
            host.kill()
        shutil.rmtree(plan.folder / KFP / "tmp", ignore_errors=True)
    if code != 0:
        return _failed(plan, board, log, position)
    _succeeded(plan, time.time() - begun)
    return 0


def _stop(host: HostProcess | None, interrupt: Interrupted, plan: RunPlan) -> int:
    name = signal.Signals(interrupt.number).name
    _say(f"\n{name}: stopping; a training stage writes a checkpoint first ({GRACE_SECONDS:.0f} s)")
    try:
        if host is not None and not host.stop():
            _say("not ended within the grace: killed; the newest checkpoint is an earlier one")
    except Interrupted:
        _say("killed at once; the newest checkpoint is an earlier one")
    _say(f"run {plan.run.name} is not finished: the same command goes on from where it stopped")
    return 128 + interrupt.number


def _failed(plan: RunPlan, board: Board, log: Path, position: int) -> int:
    for line in results.failure_lines(board, log, position):
        sys.stderr.write(f"epg: error: {printable(line)}\n")
    page = results.report_path(plan.run, plan.folder)
    if page is not None:
        _say(f"report: {page}")
    _say(f"log: {log}")
    _say("mend the cause and give the same command: finished stages are not run again")
    return USER_ERROR if any(state.text for state in board.failed) else CRASH


def _succeeded(plan: RunPlan, seconds: float) -> None:
    from rich.console import Console

    table = results.results_table(plan.run, plan.stages)
    if table is not None:
        console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
        with console.capture() as captured:
            console.print(table)
        lines = [line.rstrip() for line in captured.get().rstrip().splitlines()]
        sys.stdout.write("\n" + "\n".join(lines) + "\n\n")  # on a terminal, with colours
    for line in results.model_lines(plan.run, plan.stages):
        _say(line)
    page = results.report_path(plan.run, plan.folder)
    if page is not None:
        _say(f"report: {page}")
    _say(f"total time: {duration(seconds)}")
    command = results.next_command(plan.run, plan.stages)
    if command is not None:
        _say(f"try next: {command}")


def _write_spec(plan: RunPlan) -> Path:
    from epg.cluster.local import LocalSpec, compiled_pipeline

    folder = plan.folder / KFP
    spec = LocalSpec(str(compiled_pipeline()), plan.arguments, str(folder))
    path = folder / "spec.json"
    spec.write(path)
    return path


def _environment(plan: RunPlan) -> dict[str, str]:
    temporary = str(plan.folder / KFP / "tmp")
    return {
        **os.environ,
        **plan.environment,
        "EPG_EVENTS": str(plan.folder / EVENTS),
        "EPG_LOCAL_DIR": str(plan.folder),
        LAUNCHER_VARIABLE: launcher_name(),
        "TMPDIR": temporary,  # cleared at the next start, also after a kill -9
        "PYTHONUNBUFFERED": "1",
        # A random.py in the user's folder is no module of ours, and a locale is no encoding.
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "_KFP_RUNTIME": "false",  # the host needs all of kfp, also when called within a step
    }


def _open_log(log: Path) -> int:
    """Write a heading into the log and return where it stands."""
    try:
        position = log.stat().st_size if log.exists() else 0
        with log.open("a", encoding="utf-8") as file:
            file.write(f"==== epg run, {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
    except OSError as error:
        raise UserError(f"cannot write {log} ({error.strerror})") from error
    return position


def _say(text: str) -> None:
    sys.stdout.write(printable(text, keep="\n") + "\n")
    sys.stdout.flush()

"""The door by which a pipeline component enters a stage: one-line errors, exit code 2."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from epg.errors import UserError
from epg.runs.run import Run
from epg.telemetry.progress import StageReporter

P = ParamSpec("P")
R = TypeVar("R")


def open_run(recipe: str, overrides: dict[str, Any], store: str, run_name: str) -> Run:
    """Open the run that a component's parameters name."""
    return Run.open(recipe, overrides, store, run_name)


def stage_entry(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a `UserError` of a `*_component` function into its log's last line and exit code 2.

    On a cluster nothing but the log tells why a step failed, so the last line says it. Under
    `epg run` the parent hears it as an event too, and the step ends when its launcher is gone.
    """

    @functools.wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> R:
        from epg.runs.guard import watch_parent

        watch_parent()
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        stage = _stage_name(function.__name__, given)
        try:
            return function(*args, **kwargs)
        except UserError as error:
            _fail(stage, str(error), given)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                _crash(stage, error, given)
                raise
            _fail(stage, f"no space left on the disk of {error.filename or 'the store'}", given)
        except Exception as error:
            _crash(stage, error, given)
            raise
        raise SystemExit(2)

    return entered


def _stage_name(function_name: str, given: dict[str, Any]) -> str:
    stage = function_name.removesuffix("_component").replace("_", "-")
    return f"{stage}-{given['objective']}" if given.get("objective") else stage


def _crash(stage: str, error: Exception, given: dict[str, Any]) -> None:
    """Leave an error that nobody foresaw for the report; its traceback follows in the log."""
    _remember(stage, " ".join(f"{type(error).__name__}: {error}".split()), given)


def _fail(stage: str, message: str, given: dict[str, Any]) -> None:
    StageReporter(stage).failed(message)
    _remember(stage, message, given)
    sys.stdout.flush()
    print(f"epg: error: {stage}: {message}", file=sys.stderr, flush=True)


def _remember(stage: str, message: str, given: dict[str, Any]) -> None:
    """Leave the reason in the store for the report; a store that is away must not hide it."""
    try:
        run = open_run(given["recipe"], given["overrides"] or {}, given["store"], given["run_name"])
        failure = {"stage": stage, "message": message, "time": time.time()}
        run.store.put_bytes(f"failures/{stage}.json", json.dumps(failure).encode())
    except Exception as error:
        print(f"{stage}: the reason could not be stored: {error}", file=sys.stderr)
    log = Path("/dev/termination-log")
    if log.exists() and os.access(log, os.W_OK):
        log.write_text(f"{stage}: {message}\n")

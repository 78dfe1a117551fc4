"""The door by which a pipeline component enters a stage.

Every component of the pipeline is one `Component`: what it takes from the steps before, what it
hands over, what it shows. Errors are one line and exit code 2.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from epg.errors import UserError, one_line
from epg.documents import sealed
from epg.guard import watch_parent
from epg.runs.handover import HandOver
from epg.runs.record import CACHE_ADVICE, StageRecord
from epg.runs.run import Run, pipeline_run, run_store
from epg.store.base import ObjectNotFound
from epg.store.lease import InUse
from epg.telemetry.progress import StageReporter
from epg.text import printable


class Artifact(Protocol):
    """An artifact of Kubeflow Pipelines, of which a stage sees no more than this."""

    path: str
    metadata: dict[str, Any]


class MetricsArtifact(Artifact, Protocol):
    """An artifact that Kubeflow shows as a table of numbers."""

    def log_metric(self, metric: str, value: float) -> None:
        """Add a row."""


def _alone() -> AbstractContextManager[bool]:
    return contextlib.nullcontext(True)


@dataclass(frozen=True)
class Component:
    """A stage as a step of the pipeline calls it, with keyword arguments.

    Attributes:
        stage: the plain function; it gets the run, what `takes` reads, and every argument that is
            no artifact of ours (`objective`, `status`).
        takes: input artifact -> how its file is read.
        follows: input artifacts that only order the steps.
        hands_over: output artifact -> outputs of the stage that it points to.
        shows: output artifact -> output of the stage whose small file it becomes.
        measures: the output artifact that gets the record's numbers.
        returns: the metric that is the step's return value.
        around: entered around it; where that gives False, this process has done its part.
    """

    stage: Callable[..., StageRecord]
    takes: Mapping[str, Callable[[bytes], Any]] = field(default_factory=dict)
    follows: tuple[str, ...] = ()
    hands_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shows: Mapping[str, str] = field(default_factory=dict)
    measures: str = ""
    returns: str = ""
    around: Callable[[], AbstractContextManager[bool]] = _alone

    def __call__(
        self, *, recipe: str, overrides: dict[str, Any], store: str, run_name: str, **given: Any
    ) -> Any:
        """Do the stage inside a pipeline. Returns what `returns` names, else nothing."""
        watch_parent()
        with _told(self._name(given), store, run_name), self.around() as leads:
            if not leads:
                return None
            run = Run.open(recipe, overrides, store, run_name)
            outputs = (*self.follows, *self.hands_over, *self.shows, self.measures)
            arguments = {name: value for name, value in given.items() if name not in outputs}
            with self._handed_over():
                for name, read in self.takes.items():
                    arguments[name] = read(Path(given[name].path).read_bytes())
                record = self.stage(run, **arguments)
            for name, wanted in self.hands_over.items():
                _write(given[name], HandOver.of(run, record, *wanted).to_json())
            for name, output in self.shows.items():
                _show(run, record, output, given[name])
            if self.measures:
                _log(record, given[self.measures])
            return record.metrics[self.returns] if self.returns else None

    @contextlib.contextmanager
    def _handed_over(self) -> Iterator[None]:
        """Say why something may be gone that a step before has handed over."""
        try:
            yield
        except (ObjectNotFound, FileNotFoundError) as error:
            if not (self.takes and pipeline_run()):
                raise
            what = f"no file {error.filename}" if isinstance(error, FileNotFoundError) else error
            raise UserError(f"{what}, which a step before has made: {CACHE_ADVICE}") from error

    def _name(self, given: Mapping[str, Any]) -> str:
        step = self.stage.__name__.replace("_", "-")
        return f"{step}-{given['objective']}" if given.get("objective") else step


def _write(artifact: Artifact, content: bytes) -> None:
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    # One string: Kubeflow's metadata store turns whole floats and None into other things.
    artifact.metadata["epg"] = content.decode()


def _show(run: Run, record: StageRecord, output: str, artifact: Artifact) -> None:
    handed = HandOver.of(run, record, output)
    handed.fetch(run.store, output, Path(artifact.path))
    artifact.metadata["epg"] = handed.to_json().decode()


def _log(record: StageRecord, artifact: MetricsArtifact) -> None:
    """Show the numbers of a record; Kubeflow keeps six decimals, the strings keep them all."""
    numbers = {name: v for name, v in record.metrics.items() if isinstance(v, int | float)}
    artifact.metadata["epg"] = json.dumps({name: repr(value) for name, value in numbers.items()})
    for name, value in numbers.items():
        if math.isfinite(value):
            artifact.log_metric(name, float(value))


@contextlib.contextmanager
def _told(stage: str, store: str, run_name: str) -> Iterator[None]:
    """Turn a `UserError` into the log's last line and exit code 2, and leave it for the report.

    On a cluster nothing but the log tells why a step failed, so the last line says it. Under
    `epg run` the parent hears it as an event too.
    """
    try:
        yield
        return
    except InUse as error:
        message = printable(error)
        _last_line(stage, message)  # the report is another's, who is not to hear of it
    except UserError as error:
        message = printable(error)
        _remember(stage, message, store, run_name)
    except Exception as error:
        full_disk = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if not full_disk:  # nobody foresaw it: its traceback follows in the log
            _remember(stage, one_line(f"{type(error).__name__}: {error}"), store, run_name)
            raise
        message = f"no space left on the disk of {getattr(error, 'filename', None) or 'the store'}"
        _remember(stage, message, store, run_name)
    StageReporter(stage).failed(message)
    sys.stdout.flush()
    print(f"epg: error: {stage}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _remember(stage: str, message: str, store: str, run_name: str) -> None:
    """Leave the reason in the store for the report.

    The store alone is opened: what is wrong may be the recipe. One that is away hides nothing.
    """
    failure = {"stage": stage, "message": message, "time": time.time()}
    try:
        content = json.dumps(sealed(failure)).encode()
        run_store(store, run_name).put_bytes(f"failures/{stage}.json", content)
    except Exception as error:
        print(f"{stage}: the reason could not be stored: {error}", file=sys.stderr)
    _last_line(stage, message)


def _last_line(stage: str, message: str) -> None:
    """Leave the reason where Kubernetes shows it: in the pod itself."""
    log = Path("/dev/termination-log")
    if log.exists() and os.access(log, os.W_OK):
        log.write_text(f"{stage}: {message}\n")

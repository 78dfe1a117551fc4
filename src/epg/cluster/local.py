"""Runs the compiled pipeline on this machine: the host process of `epg run`.

    python -m epg.cluster.local SPEC.json

The very file that a cluster gets is loaded and run by kfp's local runner, each step a process of
its own. What kfp's runner does not do is done here: the steps end with the `epg run` that asked
for them, a SIGTERM lets the running step finish its checkpoint and starts no other, and retries
are left to the user (a local disk is there at the second try as it was at the first).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Any

from epg.errors import UserError
from epg.guard import watch_launcher

PIPELINE = "epg_full.yaml"
#: What pipelines/policy.py sets for pods; on this machine the user's own environment holds.
POD_VARIABLES = ("EPG_METRICS_ADDRESS", "EPG_S3_DEADLINE")


@dataclass(frozen=True)
class LocalSpec:
    """What the host process is asked to run; a JSON file between it and its parent.

    Attributes:
        pipeline: path of the compiled YAML.
        arguments: the pipeline's parameters.
        folder: a folder for artifacts, workspace and temporary files of this run alone.
    """

    pipeline: str
    arguments: dict[str, Any]
    folder: str

    def write(self, path: Path) -> None:
        """Write the spec as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> LocalSpec:
        """Read a spec that `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def compiled_pipeline(name: str = PIPELINE) -> Path:
    """Return the compiled pipeline: of the checkout that `epg` runs from, else of the package.

    Raises:
        UserError: neither has it.
    """
    checkout = Path(__file__).resolve().parents[3] / "pipelines" / name
    packaged = Path(str(resources.files("epg"))) / "_pipelines" / name
    for path in (checkout, packaged):
        if path.is_file():
            return path
    raise UserError(f"{name} is neither at {checkout} nor at {packaged}: make it by `epg compile`")


def run_pipeline(spec: LocalSpec) -> None:
    """Run a compiled pipeline with kfp's subprocess runner, in this environment.

    Raises:
        RuntimeError: a step failed; its own log has said why.
    """
    from kfp import components, local

    folder = Path(spec.folder)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "artifacts"),
        workspace_root=str(folder / "workspace"),
    )
    # Images, sizes and display names are a cluster's business; kfp warns of each, per step.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"kfp\.local")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"kfp\.")
    compiled = Path(spec.pipeline).read_text(encoding="utf-8")
    components.load_component_from_text(for_this_machine(compiled))(**spec.arguments)


def for_this_machine(compiled: str) -> str:
    """Return the compiled pipeline without what is for pods: retries, and their environment.

    A retry policy is for pods that are lost. Here it would only try a mistake again, half a
    minute later, on the same disk; the same command resumes. `POD_VARIABLES` would be laid over
    the user's own environment. The platform's part, a second document, is left behind.
    """
    import yaml

    pipeline = next(yaml.safe_load_all(compiled))
    for part in (pipeline["root"], *pipeline["components"].values()):
        for task in part.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    for executor in pipeline["deploymentSpec"]["executors"].values():
        variables = executor["container"].pop("env", [])
        kept = [variable for variable in variables if variable["name"] not in POD_VARIABLES]
        if kept:
            executor["container"]["env"] = kept
    return json.dumps(pipeline)


def _kill_all() -> None:
    """End this process and every step, at once."""
    if os.getpgrp() == os.getpid():  # our own group: `epg run` made it
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _stop_after_this_step() -> None:
    """At SIGTERM let the running step end (it got the signal too), and start no other."""
    stopping = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stopping.set()

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and stopping.is_set():
            sys.stdout.flush()
            os._exit(128 + signal.SIGTERM)  # at once: whoever sent the signal waits

    signal.signal(signal.SIGTERM, note)
    sys.addaudithook(refuse)


def _quote_nothing() -> None:
    """Let kfp write `python3` into its shell lines: it pastes `sys.executable` in unquoted."""
    folder = os.environ.get("PATH", "").partition(os.pathsep)[0]
    if Path(folder, "python3").exists() and Path(folder) == Path(sys.executable).parent:
        sys.executable = "python3"


def main(path: str) -> int:
    """Run the spec at `path`; 0 when every step succeeded, 1 when one failed."""
    watch_launcher(_kill_all)
    _stop_after_this_step()
    _quote_nothing()
    try:
        run_pipeline(LocalSpec.read(Path(path)))
    except RuntimeError as error:
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""A real cluster as a test sees it: kubectl, `epg`, port forwarding, waiting, the run's API."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from epg import __version__
from epg.cluster.runs.kfp_api import KfpApi
from epg.store import Store, open_store

ROOT = Path(__file__).parents[2]
EXPERIMENT = "epg-test-cluster"
# A fresh prefix for each session: no run finds the results of an earlier one.
STORE = f"s3://epg/test-{uuid.uuid4().hex[:8]}"
OFTEN = {"pretrain.checkpoint_every_seconds": 2}
LONG = json.dumps({"pretrain.steps": 100_000, **OFTEN})
T = TypeVar("T")


@dataclass(frozen=True)
class Site:
    """Where the tests run; every field has a variable (docs/run-on-a-cluster.md)."""

    kubeconfig: str = field(default_factory=lambda: os.environ["KUBECONFIG"])
    endpoint: str = field(default_factory=lambda: os.environ["EPG_KFP_ENDPOINT"])
    kubeflow: str = field(default_factory=lambda: _setting("KUBEFLOW_NAMESPACE", "kubeflow"))
    image: str = field(default_factory=lambda: _setting("IMAGE", f"epg-train:{__version__}"))
    tools_image: str = field(
        default_factory=lambda: _setting("TOOLS_IMAGE", f"epg-tools:{__version__}")
    )
    manifests: str = field(default_factory=lambda: _setting("MANIFESTS", "k8s"))
    memory: str = field(default_factory=lambda: _setting("MEMORY", "3Gi"))
    steps: int = field(default_factory=lambda: int(_setting("STEPS", "4000")))  # two scrapes long

    @property
    def overlay(self) -> bool:
        """Whether the manifests are a kustomization, such as one with a mirror's images."""
        return Path(ROOT, self.manifests, "kustomization.yaml").exists()

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl to its end and return what it printed."""
        ran = subprocess.run(
            ["kubectl", "--kubeconfig", self.kubeconfig, *words],
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert not check or ran.returncode == 0, f"kubectl {' '.join(words)}: {ran.stderr}"
        return ran.stdout + ("" if check else ran.stderr)

    def get(self, *words: str) -> dict[str, Any]:
        """Return what `kubectl get ... -o json` says."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def exists(self, *words: str) -> bool:
        """Tell whether `kubectl get` finds something."""
        return bool(self.kubectl("get", *words, "-o", "name", "--ignore-not-found").strip())

    def manifest_text(self) -> str:
        """The manifests as one text."""
        if self.overlay:
            return self.kubectl(
                "kustomize", "--load-restrictor", "LoadRestrictionsNone", self.manifests
            )
        return "\n---\n".join(path.read_text() for path in sorted(Path(ROOT, "k8s").glob("*.yaml")))

    def apply(self) -> list[str]:
        """Apply the manifests as the documentation says; return a line per object."""
        if self.overlay:
            return self.kubectl("apply", "-f", "-", stdin=self.manifest_text()).splitlines()
        return self.kubectl("apply", "-f", "k8s/").splitlines()

    def epg(self, *words: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
        """Run `epg ARGUMENTS` against this cluster."""
        return subprocess.run(
            [sys.executable, "-m", "epg", *words],
            cwd=ROOT,
            env={**os.environ, "EPG_KFP_ENDPOINT": self.endpoint, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def parameters(self, run_name: str, **more: str) -> list[str]:
        """Parameters of a small run here, as words of `epg submit` or `kfp run submit`."""
        known = {
            "recipe": "smoke",
            "run_name": run_name,
            "image": self.image,
            "tools_image": self.tools_image,
            "memory": self.memory,
            **more,
        }
        return [f"{name}={value}" for name, value in known.items()]

    def submit(self, run_name: str, **more: str) -> str:
        """Send a run and return its id."""
        ran = self.epg("submit", "--experiment", EXPERIMENT, *self.parameters(run_name, **more))
        assert ran.returncode == 0, ran.stdout
        found = re.search(r"\(([0-9a-f-]{36})\)\nlook at", ran.stdout)
        assert found, ran.stdout
        return found[1]

    @property
    def api(self) -> KfpApi:
        """The server of Kubeflow Pipelines."""
        return KfpApi.open(self.endpoint)

    def state(self, run_id: str) -> str:
        """State of a run as the server tells it."""
        return str(self.api.run(run_id).get("state", "PENDING"))

    def end_of(self, run_id: str, seconds: float = 1200) -> str:
        """Wait for a run to end, and return its state."""
        ended = ("SUCCEEDED", "FAILED", "CANCELED")
        return wait_for(
            lambda: state if (state := self.state(run_id)) in ended else None,
            f"run {run_id} to end",
            seconds,
        )

    def told(self, run_id: str) -> str:
        """What `epg status` says of a run."""
        return self.epg("status", run_id, "--kubeconfig", self.kubeconfig).stdout

    def terminate(self, run_id: str) -> None:
        """Do what the UI's button Terminate does."""
        self.api.call("POST", f"runs/{run_id}:terminate", {})

    def pods(self, run_id: str, stage: str | None = None) -> list[dict[str, Any]]:
        """Pods of a run, or of one of its stages."""
        labels = f"pipeline/runid={run_id}" + (f",epg/stage={stage}" if stage else "")
        return list(self.get("pods", "-n", self.kubeflow, "-l", labels)["items"])

    def training(self, run_id: str, store: Store, run_name: str) -> str:
        """Wait for a run's pre-training to have a checkpoint; return its pod's name."""
        pod = wait_for(lambda: self.running(run_id, "pretrain"), "pretrain to run", 300)
        place = f"{run_name}/pretrain/checkpoints/"
        wait_for(lambda: list(store.list(place)), "a checkpoint", 180, pause=1)
        return pod

    def running(self, run_id: str, stage: str) -> str | None:
        """Name of the stage's pod while it runs."""
        for pod in self.pods(run_id, stage):
            phase = pod["status"].get("phase")
            if phase == "Running" and "deletionTimestamp" not in pod["metadata"]:
                return str(pod["metadata"]["name"])
        return None

    def log(self, pod: str) -> str:
        """What the step has printed so far."""
        return self.kubectl("-n", self.kubeflow, "logs", pod, "-c", "main", check=False)

    @contextlib.contextmanager
    def forward(self, target: str, port: int, namespace: str = "epg") -> Iterator[str]:
        """Reach a service of the cluster at `http://127.0.0.1:PORT`, and close the way again."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            local = listener.getsockname()[1]
        words = ["-n", namespace, "port-forward", "--address", "127.0.0.1", target]
        process = subprocess.Popen(
            ["kubectl", "--kubeconfig", self.kubeconfig, *words, f"{local}:{port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(lambda: _connects(local), f"port {port} of {target}", 30)
            yield f"127.0.0.1:{local}"
        finally:
            process.terminate()
            process.wait(timeout=20)


@contextlib.contextmanager
def store_of_runs(site: Site, credentials: dict[str, str]) -> Iterator[Store]:
    """Open the store of the runs, through a forwarded port."""
    with site.forward("service/minio", 9000) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPG_S3_ACCESS_KEY", credentials["accesskey"])
        patch.setenv("EPG_S3_SECRET_KEY", credentials["secretkey"])
        patch.setenv("EPG_S3_DEADLINE", "60")
        yield open_store(f"minio://{address}/{STORE.removeprefix('s3://')}")


def _setting(name: str, default: str) -> str:
    return os.environ.get(f"EPG_TEST_{name}", "").strip() or default


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def wait_for(
    what: Callable[[], T | None], description: str, seconds: float = 300, pause: float = 2
) -> T:
    """Return the first truthy answer of `what`; fail with the last one after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {description}: {found!r}"
        time.sleep(pause)

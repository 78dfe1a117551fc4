"""Artifacts as Kubeflow gives them to a step, and hand-overs of objects that a test has made."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

from epg.runs.handover import HandOver, StoredObject
from epg.runs.run import Run


class Artifact(SimpleNamespace):
    """An artifact with a place for its file; what is logged as a metric is kept by name."""

    def log_metric(self, metric: str, value: float) -> None:
        assert type(value) is float
        self.metadata[metric] = value


def artifact(path: Path, content: bytes | None = None) -> Artifact:
    """Return an artifact at a path, with its file where it is an input."""
    if content is not None:
        path.write_bytes(content)
    return Artifact(path=str(path), metadata={})


def hand_over(run: Run, stage: str, **files: Path) -> HandOver:
    """Put files into a run's store, as a stage's outputs, and hand them over."""
    objects = {}
    for name, path in files.items():
        content, key = path.read_bytes(), f"handed/{hash(path)}/{name}"
        run.store.put_bytes(key, content)
        digest = hashlib.sha256(content).hexdigest()
        objects[name] = StoredObject(key, f"{run.store.uri}/{key}", digest, len(content))
    return HandOver(stage, run.recipe.name, objects)

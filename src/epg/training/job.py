"""A training as a plain value: whatever runs it, here or elsewhere, needs nothing else.

A stage makes the job and keeps the records; who runs it knows neither runs nor records.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epg.config.recipe import Recipe
from epg.config.training import OptimizerConfig
from epg.data.manifest import Manifest
from epg.documents import Kind, fields, parse_object

_MAX_BYTES = 256 * 1024**2  # a manifest of a thousand shards has 0.3 MB
_FIELDS: dict[str, Kind] = {
    "stage": str,
    "objective": str,
    "recipe": dict,
    "manifest": str,
    "store": str,
    "config": dict,
    "inputs": dict,
    "weights": dict,
    "headers": dict,
    "scratch": str,
}


@dataclass(frozen=True)
class TrainingJob:
    """One training stage of one run; it travels to other processes as JSON.

    Attributes:
        stage: its name; the order of the data and the place of its checkpoints go by it.
        objective: which training it is, and the recipe's section of it: `pretrain`, `denoising`
            or `consistency`.
        recipe: the whole recipe.
        manifest: the shards.
        store: URI of the run's place; the manifest's keys and the checkpoints lie below it.
        config: settings that a checkpoint must have been made with.
        inputs: digests of what is read; checkpoints are bound to them too.
        weights: local safetensors files to start from, by kind (`encoder`, `projector`).
        headers: what each file that is written says of itself, by kind.
        scratch: local folder that is there; the files are written into it.
    """

    stage: str
    objective: str
    recipe: Recipe
    manifest: Manifest
    store: str
    config: dict[str, Any]
    inputs: dict[str, str]
    weights: dict[str, Path]
    headers: dict[str, dict[str, Any]]
    scratch: Path

    @property
    def optimizer(self) -> OptimizerConfig:
        """The recipe's section of this training."""
        section: OptimizerConfig = getattr(self.recipe, self.objective)
        return section

    def to_json(self) -> bytes:
        """Return what `from_json` makes the same job of."""
        content = {name: getattr(self, name) for name in _FIELDS}
        content |= {
            "recipe": self.recipe.model_dump(mode="json"),
            "manifest": self.manifest.to_json().decode(),
            "weights": {kind: str(path) for kind, path in self.weights.items()},
            "scratch": str(self.scratch),
        }
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TrainingJob:
        """Read a job. Raises `DocumentError` or `UserError` for anything else."""
        content = fields(parse_object(data, max_bytes=_MAX_BYTES), _FIELDS)
        content |= {
            "recipe": Recipe.model_validate(content["recipe"]),
            "manifest": Manifest.from_json(content["manifest"].encode()),
            "weights": {kind: Path(path) for kind, path in content["weights"].items()},
            "scratch": Path(content["scratch"]),
        }
        return cls(**content)


@dataclass(frozen=True)
class Trained:
    """What a training leaves behind.

    Attributes:
        files: safetensors in the job's scratch folder, by kind: `encoder` and `projector`, or
            `generator`.
        series: one row per logged step.
        parameters: number of parameters in each file.
    """

    files: dict[str, Path]
    series: list[dict[str, Any]]
    parameters: dict[str, int]

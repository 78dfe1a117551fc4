"""Weights on disk: safetensors whose header holds a JSON object that explains the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from epg.config.sampling import SamplingConfig
from epg.errors import UserError
from epg.model.generator import Generator

HEADER_KEY = "epg"


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready to sample: weights (EMA), in eval mode, and what it was trained with."""

    generator: Generator
    recipe: dict[str, Any]
    objective: str  # denoising | consistency
    classes: list[str]
    sampling: SamplingConfig  # the recipe's when it was trained
    metadata: dict[str, Any]


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and a JSON header; the same content gives the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={HEADER_KEY: json.dumps(metadata, sort_keys=True)})


def load_weights(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header; `kind` is what the header must say the file is.

    Raises:
        UserError: no such file, not safetensors, not ours, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not a safetensors file ({error}); pickles are refused") from error
    if metadata.get("kind") != kind:
        found = metadata.get("kind") or "a file that epg did not write"
        raise UserError(f"{path}: expected a model of kind {kind!r}, found {found!r}")
    return tensors, metadata


def load_generator(path: Path | str) -> LoadedGenerator:
    """Load a generator from a `.safetensors` file, or from a folder holding `model.safetensors`."""
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    tensors, metadata = load_weights(path, "generator")
    generator = Generator(**metadata["generator_arguments"])
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit their own header: {error}") from error
    return LoadedGenerator(
        generator=generator.eval().requires_grad_(False),
        recipe=metadata["recipe"],
        objective=metadata["objective"],
        classes=metadata["classes"],
        sampling=_sampling(metadata, path),
        metadata=metadata,
    )


def _sampling(metadata: dict[str, Any], path: Path) -> SamplingConfig:
    """Sampling as the header has it; version 0.1 wrote none, but the whole recipe beside it."""
    try:
        return SamplingConfig.checked(metadata.get("sampling") or _sampling_of_recipe(metadata))
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{path}: its header does not say how to sample ({error}): train it again and "
            "register what comes out"
        ) from error


def _sampling_of_recipe(metadata: dict[str, Any]) -> dict[str, Any]:
    recipe, objective = metadata["recipe"], metadata["objective"]
    diffusion = recipe["diffusion"]
    content = {
        "objective": objective,
        "steps": 1,
        "sigma_shift": diffusion["sigma_shift"] or recipe["data"]["image_size"] / 64,
        **{key: diffusion[key] for key in ("sigma_min", "sigma_max", "rho", "sigma_data")},
    }
    if objective == "denoising":
        settings = recipe["denoising"]
        content["steps"] = settings["sampling_steps"]
        for key in ("guidance_scale", "guidance_interval", "final_euler_step"):
            content[key] = settings[key]
    return content

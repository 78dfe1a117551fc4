"""Weights on disk: safetensors whose header holds a JSON object that explains the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from epg.config.sampling import SamplingConfig
from epg.documents import DocumentError, Kind, fields, parse_object, sealed, unseal
from epg.errors import UserError, one_line
from epg.model.generator import Generator

HEADER_KEY = "epg"
_TENSORS = "tensors_sha256"  # in the header
_ENCODER: dict[str, Kind] = {
    "image_size": int,
    "patch_size": int,
    "channels": int,
    "embed_dim": int,
    "depth": int,
    "num_heads": int,
    "mlp_ratio": float,
}
_GENERATOR: dict[str, Kind] = {
    "encoder": dict,
    "num_classes": int,
    "decoder_embed_dim": int,
    "decoder_num_heads": int,
}
#: Far beyond any model of ours, and small enough that no header hangs or fills the memory.
_MOST = {"depth": 1024, "num_classes": 1_000_000}
_MOST_ELSE = 65_536


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
    """Write tensors and a JSON header with digests of both; the same content, the same bytes.

    Raises:
        UserError: no space.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = sealed({**metadata, _TENSORS: tensors_digest(plain)})
    write_tensors(path, plain, {HEADER_KEY: json.dumps(header, sort_keys=True)})


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file. Raises `UserError` where the disk is full, `OSError` else."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # it wraps the system's errors, and tells them as text
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"cannot write {path}: no space left on the disk (or quota reached): what was "
                "stored before is intact; free some space and run the same command again"
            ) from error
        raise OSError(number, f"{os.strerror(number)} ({error})", str(path)) from error


def load_weights(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header; `kind` is what the header must say the file is.

    Raises:
        UserError: no such file, not safetensors, not ours, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = parse_object((file.metadata() or {}).get(HEADER_KEY, "{}"))
            if metadata.get("kind") != kind:
                found = str(metadata.get("kind") or "a file that epg did not write")[:40]
                raise UserError(f"{path}: expected a model of kind {kind!r}, found {found!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Version 0.1 wrote neither digest.
        metadata = unseal(metadata, required=_TENSORS in metadata)
        if metadata.pop(_TENSORS, None) not in (None, tensors_digest(tensors)):
            raise DocumentError("its tensors do not fit their digest: they were altered")
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); pickles are refused") from error
    except DocumentError as error:
        raise UserError(f"{path}: {error}; take another copy of the file") from error
    return tensors, metadata


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_generator(path: Path | str) -> LoadedGenerator:
    """Load a generator from a `.safetensors` file, or from a folder holding `model.safetensors`."""
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    tensors, metadata = load_weights(path, "generator")
    try:
        fields(
            {key: metadata.get(key) for key in ("recipe", "objective", "classes")},
            {"recipe": dict, "objective": str, "classes": list},
        )
        if not all(isinstance(name, str) for name in metadata["classes"]):
            raise DocumentError("'classes' are no texts")
        generator = _built(metadata.get("generator_arguments"), tensors)
    except DocumentError as error:
        raise UserError(f"{path}: weights do not fit their own header: {error}") from error
    if len(metadata["classes"]) != generator.num_classes:
        raise UserError(
            f"{path}: weights do not fit their own header: {len(metadata['classes'])} classes are "
            f"named, the generator has {generator.num_classes}"
        )
    return LoadedGenerator(
        generator=generator.eval().requires_grad_(False),
        recipe=metadata["recipe"],
        objective=metadata["objective"],
        classes=metadata["classes"],
        sampling=_sampling(metadata, path),
        metadata=metadata,
    )


def _built(arguments: Any, tensors: dict[str, Tensor]) -> Generator:
    """Return the generator that a header describes, with its weights.

    It is first built without memory: what a header asks for may be anything.

    Raises:
        DocumentError: the header describes no generator, or not that of these tensors.
    """
    content = fields(arguments, _GENERATOR, {"dropout": float})
    encoder = fields(content["encoder"], _ENCODER)
    for key, value in {**encoder, **content}.items():
        low = 0 if key == "dropout" else 1e-3 if key == "mlp_ratio" else 1
        most = _MOST.get(key, _MOST_ELSE)
        if not isinstance(value, dict) and not low <= value <= most:
            raise DocumentError(f"{key!r} is {value}, expected {low} to {most}")
    try:
        with torch.device("meta"):
            check_fit(Generator(**content), tensors)
        generator = Generator(**content)
        generator.load_state_dict(tensors)
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise DocumentError(one_line(error)[:200]) from error
    return generator


def check_fit(described: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names or shapes than those of a network on the meta device.

    Raises:
        DocumentError: naming the first that differs.
    """
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = {name: tensor.shape for name, tensor in described.state_dict().items()}
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise DocumentError(
                f"{name[:80]!r} is {_shape(found.get(name))}, expected {_shape(wanted.get(name))}"
            )


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(list(shape))


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

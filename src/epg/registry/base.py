"""What a registry of finished models is to the rest of `epg`, wherever it keeps them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from epg.errors import UserError

#: Beside a model's weights: the figures of its evaluation, and how they were measured.
EVALUATION_FILE = "evaluation.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")


#: A version's weights: the average of its training that was judged.
WEIGHTS_FILE = "model.safetensors"


def averaged_file(decay: float) -> str:
    """Return the name of a version's weights that were averaged at another rate."""
    return f"model-ema-{decay:g}.safetensors"


@dataclass(frozen=True)
class Registered:
    """A complete version in a registry.

    Attributes:
        model: name, such as `digits-denoising`.
        version: `v1`, `v2`, ... unless it was given.
        digest: SHA-256 of the weights, hexadecimal.
        uri: where its files lie.
        created: True when this very call registered it.
        time: when it was registered, ISO 8601, UTC.
        files: file name -> {"sha256", "size"}.
    """

    model: str
    version: str
    digest: str
    uri: str
    created: bool = False
    time: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Registry(Protocol):
    """Finished models by name and version; a complete version never changes.

    A reference is `NAME`, which means its newest version, or `NAME:VERSION`. Every method raises
    `UserError` with one clear line for a bad name, and when the place cannot be used.
    """

    uri: str

    def register(
        self,
        model: str,
        weights: Path,
        *,
        recipe_yaml: str,
        metrics: Mapping[str, Any],
        card: str,
        extra: Mapping[str, Path] | None = None,
        version: str | None = None,
    ) -> Registered:
        """Put a model into the registry; the same weights a second time change nothing.

        Args:
            model: name, such as `digits-denoising`.
            weights: safetensors file.
            recipe_yaml: resolved recipe.
            metrics: name -> number or text.
            card: model card in Markdown.
            extra: file name -> local file, such as `grid.png`.
            version: default: the next free of v1, v2, ...

        Returns:
            the version; `created` tells whether it is new.

        Raises:
            UserError: other weights are registered under `version`.
        """
        ...

    def list(self, model: str | None = None) -> Sequence[Registered]:
        """List complete versions of one model or of all, by name and then oldest first."""
        ...

    def resolve(self, reference: str) -> Registered:
        """Find a version. Raises `UserError` that names the nearest and lists what there is."""
        ...

    def fetch(self, reference: str, folder: Path, file: str = WEIGHTS_FILE) -> Path:
        """Copy a version's weights into `folder`, check their SHA-256, and return the file.

        Args:
            reference: `NAME` or `NAME:VERSION`.
            folder: where to.
            file: which of the version's files; `averaged_file` names those of other averages.

        Raises:
            UserError: no such version or file, or it was altered.
        """
        ...


def model_name(recipe: str, objective: str) -> str:
    """Return the name under which a recipe's generator is registered."""
    return f"{recipe}-{objective}"


def check_model_name(name: str) -> str:
    """Return a model's name unchanged, or refuse it."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"model name {name!r}: use 1 to 100 letters, digits, '.', '_' and '-', beginning with "
            "a letter or a digit"
        )
    return name


def check_version(version: str) -> str:
    """Return a version unchanged, or refuse it."""
    if not _VERSION.fullmatch(version):
        raise UserError(
            f"model version {version!r}: use 1 to 50 letters, digits, '.', '_' and '-', such as v2"
        )
    return version


def natural_order(version: str) -> list[tuple[int, str]]:
    """Sort key by which v2 comes before v10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", version)
        if part
    ]

"""One registered version of a model, and the names it may have."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from epg.errors import UserError
from epg.store import ObjectNotFound, Store

ENTRY_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")
_KIND = "model"


@dataclass(frozen=True)
class Registered:
    """A complete version in the registry.

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
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Key prefix of its files in the registry's store."""
        return f"{self.model}/{self.version}"

    def to_json(self) -> bytes:
        """Return the content of `model.json`."""
        content = {
            "epg_kind": _KIND,
            "name": self.model,
            "version": self.version,
            "digest": self.digest,
            "created": self.time,
            "files": self.files,
        }
        return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def read_entry(registry: Store, model: str, version: str) -> Registered | None:
    """Read a version's `model.json`; None when the version is not complete.

    Raises:
        UserError: it is damaged.
    """
    key = f"{model}/{version}/{ENTRY_FILE}"
    uri = f"{registry.uri}/{model}/{version}"
    try:
        content = json.loads(registry.get_bytes(key))
        if content["epg_kind"] != _KIND or content["name"] != model:
            raise ValueError(f"it describes {content['name']!r}")
        return Registered(
            model=model,
            version=version,
            digest=str(content["digest"]),
            uri=uri,
            time=str(content["created"]),
            files=dict(content["files"]),
        )
    except ObjectNotFound:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{registry.uri}/{key}: not a registry entry ({error}); remove the folder "
            f"{uri} and register the model again"
        ) from error


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

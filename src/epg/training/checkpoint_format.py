"""A checkpoint's folder in a store: its name, its files, the manifest that makes it whole."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from epg.documents import (
    DocumentError,
    Kind,
    fields,
    is_sha256,
    parse_object,
    sealed,
    unseal,
)
from epg.store.base import Store

FORMAT = 2
FOLDER = re.compile(r"^(step-([0-9]{9})\.[0-9a-f]{8})/")
MANIFEST = "manifest.json"
SERIES = "series.jsonl"
SERIES_BYTES = 1024**3  # at most; a row of a step has about 300
_STATE = re.compile(r"state-[0-9]{5}\.safetensors")
_FIELDS: dict[str, Kind] = {
    "format": int,
    "step": int,
    "config": dict,
    "inputs": dict,
    "files": dict,
}


def new_folder(step: int) -> str:
    """Return a name that no folder has yet."""
    return f"step-{step:09d}.{secrets.token_hex(4)}"


def step_of(folder: str) -> int:
    """Return the steps that a folder's name says were done."""
    return int(folder.partition("-")[2].partition(".")[0])


def state_name(number: int) -> str:
    """Return the name of a checkpoint's n-th file of tensors."""
    return f"state-{number:05d}.safetensors"


def manifest_json(
    step: int, config: Mapping[str, Any], inputs: Mapping[str, str], files: Mapping[str, str]
) -> bytes:
    """Return a manifest; `files` has the SHA-256 of every file of the folder by its name."""
    content = {"format": FORMAT, "step": step, "config": config, "inputs": inputs, "files": files}
    return json.dumps(sealed(content), indent=1).encode()


def manifest_of(folder: str) -> Callable[[bytes], dict[str, Any]]:
    """Return the reader of a folder's manifest, which raises `DocumentError`."""

    def read(data: bytes) -> dict[str, Any]:
        content = parse_object(data, nan=True)
        manifest = unseal(content, required=content.get("format", 1) == FORMAT)
        other = type(manifest.get("format", 1)) is int and manifest.get("format") != FORMAT
        if other and {"config", "inputs"} <= manifest.keys():
            return manifest  # for its reader to refuse, by its format
        fields(manifest, _FIELDS)
        if manifest["step"] != step_of(folder):
            raise DocumentError(f"its manifest is of step {manifest['step']}")
        files = manifest["files"]
        whole = all(is_sha256(digest) for digest in files.values()) and SERIES in files
        if not whole or any(name != SERIES and not _STATE.fullmatch(name) for name in files):
            raise DocumentError("its manifest names other files than a checkpoint has")
        return manifest

    return read


def remove(store: Store, folder: str) -> None:
    """Remove a checkpoint; its manifest goes first, so that nobody takes the rest for whole."""
    store.delete(f"{folder}/{MANIFEST}")
    store.clear(folder)


def series_json(series: list[dict[str, Any]]) -> bytes:
    """Return the rows as JSON lines, which `rows_of` reads back."""
    return "".join(json.dumps(row) + "\n" for row in series).encode()


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """Read a series. Raises `DocumentError` for anything else."""
    return [parse_object(row, nan=True) for row in data.splitlines()]

"""Checkpoints that are whole or not there, on any store.

A checkpoint is a new folder `step-N.<token>` with `state.safetensors`, `series.jsonl` and, last,
`manifest.json` with the SHA-256 of both. Readers trust manifests only, check digests before they
load, and fall back to the checkpoint before with the reason. Nothing is ever overwritten.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from epg.config.comparison import differences
from epg.errors import UserError
from epg.store.base import ObjectNotFound, Store

_FOLDER = re.compile(r"^(step-(\d{9})\.[0-9a-f]{8})/")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What training goes on from."""

    step: int  # steps done
    tensors: dict[str, Tensor]
    series: list[dict[str, Any]]  # one row per logged step so far


class Checkpoints:
    """Saves and restores the state of one training stage under a store's prefix."""

    def __init__(
        self,
        store: Store,
        config: dict[str, Any],
        inputs: dict[str, str],
        *,
        keep: int = 2,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Bind to a place; `config` and `inputs` are what a checkpoint must have been made with."""
        self._store = store
        self._config = config
        self._inputs = inputs
        self._keep = keep
        self._warn = warn

    def save(
        self, step: int, tensors: dict[str, Tensor], series: list[dict[str, Any]], scratch: Path
    ) -> None:
        """Store a complete checkpoint, then remove all but the newest `keep`."""
        folder = f"step-{step:09d}.{secrets.token_hex(4)}"
        path = scratch / f"{folder}.safetensors"
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
        rows = "".join(json.dumps(row) + "\n" for row in series).encode()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = {
            "step": step,
            "config": self._config,
            "inputs": self._inputs,
            "files": {
                "state.safetensors": digest,
                "series.jsonl": hashlib.sha256(rows).hexdigest(),
            },
        }
        self._store.put_file(f"{folder}/state.safetensors", path)
        self._store.put_bytes(f"{folder}/series.jsonl", rows)
        self._store.put_bytes(f"{folder}/{_MANIFEST}", json.dumps(manifest, indent=1).encode())
        path.unlink()
        self._sweep()

    def restore(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None.

        Raises:
            UserError: when it was made with other settings or inputs, naming what differs.
        """
        for folder in self._complete():
            where = f"{self._store.uri}/{folder}"
            try:
                manifest = json.loads(self._store.get_bytes(f"{folder}/{_MANIFEST}"))
                self._check(manifest, where)
                files = {
                    name: self._verified(f"{folder}/{name}", digest)
                    for name, digest in manifest["files"].items()
                }
                rows = files["series.jsonl"].decode().splitlines()
                return Checkpoint(
                    step=manifest["step"],
                    tensors=load(files["state.safetensors"]),
                    series=[json.loads(row) for row in rows],
                )
            except _DamagedError as error:
                self._warn(f"{where}: {error}; trying the checkpoint before")
            except (ValueError, KeyError, TypeError, ObjectNotFound) as error:
                if isinstance(error, UserError) and not isinstance(error, ObjectNotFound):
                    raise
                self._warn(f"{where}: unreadable ({error}); trying the checkpoint before")
        return None

    def _check(self, manifest: dict[str, Any], where: str) -> None:
        if manifest["config"] == self._config and manifest["inputs"] == self._inputs:
            return
        listed = differences(manifest["config"], self._config)
        listed += differences(manifest["inputs"], self._inputs)
        raise UserError(
            f"{where}: this checkpoint was made with other settings ({'; '.join(listed)}): "
            "choose another --run-name, or throw it away with `--from STAGE`"
        )

    def _verified(self, key: str, digest: str) -> bytes:
        data = self._store.get_bytes(key)
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            name = key.rsplit("/", 1)[1]
            raise _DamagedError(f"{name} has SHA-256 {found[:12]}..., expected {digest[:12]}...")
        return data

    def _folders(self) -> dict[str, bool]:
        """Folder -> whether its manifest is there."""
        found: dict[str, bool] = {}
        for info in self._store.list():
            match = _FOLDER.match(info.key)
            if match:
                folder = match.group(1)
                complete = info.key == f"{folder}/{_MANIFEST}"
                found[folder] = found.get(folder, False) or complete
        return found

    def _complete(self) -> list[str]:
        return sorted((f for f, complete in self._folders().items() if complete), reverse=True)

    def _sweep(self) -> None:
        """Remove torn folders and all but the newest whole ones."""
        kept = set(self._complete()[: self._keep])
        for folder in self._folders():
            if folder not in kept:
                # The manifest goes first: from then on nobody takes the folder for whole.
                self._store.delete(f"{folder}/{_MANIFEST}")
                self._store.clear(folder)


class _DamagedError(Exception):
    """A digest does not match: the checkpoint before is used."""


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Flatten an optimizer's state as `optimizer.<parameter>.<entry>` tensors."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    flat = {}
    for name, parameter in zip(names, parameters, strict=True):
        for entry, value in optimizer.state.get(parameter, {}).items():
            flat[f"optimizer.{name}.{entry}"] = torch.as_tensor(value)
    return flat


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` flattened."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        prefix = f"optimizer.{name}."
        entries = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if entries:
            optimizer.state[parameter] = {
                entry: value.to(parameter.device) for entry, value in entries.items()
            }

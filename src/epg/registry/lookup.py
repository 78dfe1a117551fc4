"""Finding registered models by name."""

from __future__ import annotations

import re
from pathlib import Path

from epg.errors import UserError, did_you_mean
from epg.registry.entry import (
    ENTRY_FILE,
    WEIGHTS_FILE,
    Registered,
    check_model_name,
    check_version,
    read_entry,
)
from epg.store import Store
from epg.store.digest import file_sha256


def list_models(registry: Store, model: str | None = None) -> list[Registered]:
    """List complete versions, by name and then oldest first.

    Args:
        registry: the registry's store.
        model: only this one; default: all.
    """
    found = []
    for info in registry.list(f"{model}/" if model else ""):
        parts = info.key.split("/")
        if len(parts) == 3 and parts[2] == ENTRY_FILE:
            entry = read_entry(registry, parts[0], parts[1])
            if entry is not None:
                found.append(entry)
    return sorted(found, key=lambda e: (e.model, e.time, natural_order(e.version)))


def resolve(registry: Store, reference: str) -> Registered:
    """Find `NAME` (its newest version) or `NAME:VERSION`.

    Raises:
        UserError: one line that names the nearest and lists what there is.
    """
    name, colon, version = reference.partition(":")
    check_model_name(name)
    if colon:
        check_version(version)
        entry = read_entry(registry, name, version)
        if entry is not None:
            return entry
    versions = list_models(registry, name)
    if not versions:
        raise _unknown(registry, name)
    if not colon:
        return versions[-1]
    names = [entry.version for entry in versions]
    hint = did_you_mean(version, names, cutoff=0.5)
    raise UserError(
        f"model {name!r} has no version {version!r}{hint} in {registry.uri}: it has {', '.join(names)}"
    )


def fetch_model(registry: Store, reference: str, folder: Path) -> Path:
    """Copy the weights of a registered model into `folder` and check their SHA-256.

    Returns:
        path of the safetensors file.
    """
    entry = resolve(registry, reference)
    path = folder / f"{entry.model}-{entry.version}.safetensors"
    registry.get_file(f"{entry.prefix}/{WEIGHTS_FILE}", path)
    found = file_sha256(path)
    if found != entry.digest:
        path.unlink()
        raise UserError(
            f"{entry.uri}/{WEIGHTS_FILE}: SHA-256 is {found[:12]}..., expected "
            f"{entry.digest[:12]}...: the weights were altered; remove {entry.uri} and register "
            "the model again"
        )
    return path


def natural_order(version: str) -> list[tuple[int, str]]:
    """Sort key by which v2 comes before v10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", version)
        if part
    ]


def _unknown(registry: Store, name: str) -> UserError:
    names = sorted({entry.model for entry in list_models(registry)})
    if not names:
        return UserError(
            f"no model {name!r} in {registry.uri}, which is empty: `epg run --recipe digits` "
            "registers models, --registry names another place"
        )
    hint = did_you_mean(name, names, cutoff=0.5)
    return UserError(f"no model {name!r}{hint} in {registry.uri}: it has {', '.join(names)}")

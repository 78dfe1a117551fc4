"""Registering a model: once per digest, never half, never over another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from epg.errors import UserError
from epg.registry.entry import (
    ENTRY_FILE,
    WEIGHTS_FILE,
    Registered,
    check_model_name,
    check_version,
    read_entry,
)
from epg.registry.lookup import list_models
from epg.store import ObjectExists, ObjectNotFound, Store
from epg.store.digest import file_sha256, stream_sha256

#: Taken by conditional put before the first file; names the digest, gone once model.json is there.
CLAIM_FILE = "claim.json"
_OWN_FILES = {WEIGHTS_FILE, ENTRY_FILE, CLAIM_FILE, "recipe.yaml", "metrics.json", "README.md"}


def register(
    registry: Store,
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
        registry: the registry's store.
        model: name, such as `digits-denoising`.
        weights: safetensors file.
        recipe_yaml: resolved recipe, stored as `recipe.yaml`.
        metrics: name -> number or text, stored as `metrics.json`.
        card: model card in Markdown, stored as `README.md`.
        extra: file name -> local file, such as `grid.png`.
        version: default: the next free of v1, v2, ...

    Returns:
        the version; `created` tells whether it is new.

    Raises:
        UserError: a bad name, or another digest is registered under `version`.
    """
    check_model_name(model)
    if version is not None:
        check_version(version)
    for name in extra or {}:
        if name in _OWN_FILES or "/" in name:
            raise ValueError(f"extra file {name!r}: a plain name that is not in use already")
    digest = _file_digest(weights)
    known = _known(registry, model, version, digest)
    if known is not None:
        return known
    files: dict[str, Path | bytes] = {
        WEIGHTS_FILE: weights,
        "recipe.yaml": recipe_yaml.encode(),
        "metrics.json": json.dumps(dict(metrics), indent=1, sort_keys=True).encode() + b"\n",
        "README.md": card.encode(),
        **(extra or {}),
    }
    candidates = iter([version]) if version is not None else _free_versions(registry, model)
    for candidate in candidates:
        done = _write_version(registry, model, candidate, digest, files)
        if done is not None:
            return done
    raise UserError(
        f"model {model!r} version {version!r} in {registry.uri} is being registered with other "
        f"weights, or that broke off: wait, remove {registry.uri}/{model}/{version}, or choose "
        "another version"
    )


def _known(registry: Store, model: str, version: str | None, digest: str) -> Registered | None:
    if version is None:
        same = [entry for entry in list_models(registry, model) if entry.digest == digest]
        return same[-1] if same else None
    entry = read_entry(registry, model, version)
    if entry is None or entry.digest == digest:
        return entry
    raise UserError(
        f"model {model!r} version {version!r} in {registry.uri} has other weights (digest "
        f"{entry.digest[:12]}..., these have {digest[:12]}...): a version never changes; choose "
        "another one or leave it out for the next free one"
    )


def _free_versions(registry: Store, model: str) -> Iterator[str]:
    """Yield v1, v2, ... without the complete ones; the caller claims one that is really free."""
    complete = {entry.version for entry in list_models(registry, model)}
    for number in count(1):
        if f"v{number}" not in complete:
            yield f"v{number}"


def _write_version(
    registry: Store, model: str, version: str, digest: str, files: Mapping[str, Path | bytes]
) -> Registered | None:
    """Write a version's files, `model.json` last; None when the version belongs to others."""
    prefix = f"{model}/{version}"
    claim = f"{prefix}/{CLAIM_FILE}"
    if not _claim(registry, claim, digest):
        return None
    # Between our look at the versions and our claim somebody may have completed this one.
    entry = read_entry(registry, model, version)
    if entry is None:
        described = {name: _put(registry, f"{prefix}/{name}", f) for name, f in files.items()}
        entry = Registered(
            model=model,
            version=version,
            digest=digest,
            uri=f"{registry.uri}/{prefix}",
            created=True,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            files=described,
        )
        try:
            registry.put_bytes(f"{prefix}/{ENTRY_FILE}", entry.to_json(), if_absent=True)
        except ObjectExists:  # the same weights, registered by two at once
            entry = read_entry(registry, model, version)
    registry.delete(claim)
    return entry if entry is not None and entry.digest == digest else None


def _claim(registry: Store, claim: str, digest: str) -> bool:
    """Claim a version; one that was claimed for the same weights and broke off is ours."""
    content = json.dumps({"digest": digest}).encode()
    try:
        registry.put_bytes(claim, content, if_absent=True)
    except ObjectExists:
        try:
            return registry.get_bytes(claim) == content
        except ObjectNotFound:  # completed just now
            return False
    return True


def _put(registry: Store, key: str, source: Path | bytes) -> dict[str, Any]:
    """Write a file and read it back: what is registered is what was meant."""
    if isinstance(source, bytes):
        registry.put_bytes(key, source)
        digest, size = hashlib.sha256(source).hexdigest(), len(source)
    else:
        registry.put_file(key, source)
        digest, size = _file_digest(source), source.stat().st_size
    with registry.open(key) as file:
        stored = stream_sha256(file)
    if stored != digest:
        raise UserError(
            f"{registry.uri}/{key}: what was stored differs from what was sent (SHA-256): check "
            "the store, then run the same command again"
        )
    return {"sha256": digest, "size": size}


def _file_digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"weights {path}: cannot read them: {error.strerror}") from error

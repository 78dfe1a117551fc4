"""A registry of plain files in any store.

    <model>/<version>/model.safetensors, recipe.yaml, metrics.json, README.md, ..., model.json

`model.json` is written last: where it exists, the version is complete and never changes. Before
the first file a claim is taken by conditional put; it names the digest and is gone at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from epg.documents import (
    SEAL,
    DocumentError,
    Kind,
    fields,
    is_sha256,
    parse_object,
    sealed,
    unseal,
)
from epg.errors import UserError, did_you_mean
from epg.registry.base import (
    WEIGHTS_FILE,
    Registered,
    check_model_name,
    check_version,
    natural_order,
)
from epg.store import ObjectExists, ObjectNotFound, Store
from epg.store.digest import file_sha256, stream_sha256
from epg.store.reading import fetch_file, read_document

ENTRY_FILE = "model.json"
CLAIM_FILE = "claim.json"
_OWN_FILES = {WEIGHTS_FILE, ENTRY_FILE, CLAIM_FILE, "recipe.yaml", "metrics.json", "README.md"}
_KIND = "model"
_FORMAT = 2  # 1: of version 0.1, which wrote neither a number nor a seal
_FIELDS: dict[str, Kind] = {
    "epg_kind": str,
    "name": str,
    "version": str,
    "digest": str,
    "created": str,
    "files": dict,
}


class FileRegistry:
    """A `Registry` under the root of a store."""

    def __init__(self, store: Store) -> None:
        """Use a store; nothing is read or written yet."""
        self._store = store
        self.uri = store.uri

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
        """Put a model into the registry: once per digest, never half, never over another one."""
        check_model_name(model)
        if version is not None:
            check_version(version)
        for name in extra or {}:
            if name in _OWN_FILES or "/" in name:
                raise ValueError(f"extra file {name!r}: a plain name that is not in use already")
        digest = _digest(weights)
        known = self._known(model, version, digest)
        if known is not None:
            return known
        files: dict[str, Path | bytes] = {
            WEIGHTS_FILE: weights,
            "recipe.yaml": recipe_yaml.encode(),
            "metrics.json": json.dumps(dict(metrics), indent=1, sort_keys=True).encode() + b"\n",
            "README.md": card.encode(),
            **(extra or {}),
        }
        candidates = iter([version]) if version is not None else self._free_versions(model)
        for candidate in candidates:
            done = self._write_version(model, candidate, digest, files)
            if done is not None:
                return done
        raise UserError(
            f"model {model!r} version {version!r} in {self.uri} is being registered with other "
            f"weights, or that broke off: wait, move {self.uri}/{model}/{version} away, or choose "
            "another version"
        )

    def list(self, model: str | None = None) -> Sequence[Registered]:
        """List complete versions of one model or of all, by name and then oldest first."""
        found = []
        for info in self._store.list(f"{model}/" if model else ""):
            parts = info.key.split("/")
            if len(parts) == 3 and parts[2] == ENTRY_FILE:
                entry = self._entry(parts[0], parts[1])
                if entry is not None:
                    found.append(entry)
        return sorted(found, key=lambda e: (e.model, e.time, natural_order(e.version)))

    def resolve(self, reference: str) -> Registered:
        """Find `NAME` (its newest version) or `NAME:VERSION`."""
        name, colon, version = reference.partition(":")
        check_model_name(name)
        if colon:
            check_version(version)
            entry = self._entry(name, version)
            if entry is None and version.isdecimal():  # NAME:1 can only mean v1
                entry = self._entry(name, f"v{version}")
            if entry is not None:
                return entry
        versions = self.list(name)
        if not versions:
            raise self._unknown(name)
        if not colon:
            return versions[-1]
        names = [entry.version for entry in versions]
        hint = did_you_mean(version, names, cutoff=0.5)
        raise UserError(
            f"model {name!r} has no version {version!r}{hint} in {self.uri}: it has "
            f"{', '.join(names)}"
        )

    def fetch(self, reference: str, folder: Path, file: str = WEIGHTS_FILE) -> Path:
        """Copy a version's weights into `folder`, check their SHA-256, and return the file."""
        entry = self.resolve(reference)
        if file not in entry.files:
            names = ", ".join(sorted(n for n in entry.files if n.endswith(".safetensors")))
            raise UserError(f"{entry.uri}: it has no {file}: there are {names}")
        path = folder / f"{entry.model}-{entry.version}-{file}"
        key, digest = f"{entry.model}/{entry.version}/{file}", entry.files[file]["sha256"]
        found = fetch_file(self._store, key, path, digest)
        if found != digest:
            path.unlink()
            raise UserError(
                f"{entry.uri}/{file}: SHA-256 is {found[:12]}..., expected "
                f"{digest[:12]}...: the weights were altered; put back a copy of them if "
                f"there is one, or move {entry.uri} away and register the model again"
            )
        return path

    def _entry(self, model: str, version: str) -> Registered | None:
        """Read a version's `model.json`; None when the version is not complete."""
        uri = f"{self.uri}/{model}/{version}"

        def read(data: bytes) -> Registered:
            content = _entry_content(data)
            named = (content["name"], content["version"])
            if named != (model, version):
                raise DocumentError(f"it describes {named[0][:40]!r} version {named[1][:40]!r}")
            return Registered(
                model=model,
                version=version,
                digest=content["digest"],
                uri=uri,
                time=content["created"],
                files=content["files"],
            )

        try:
            return read_document(self._store, f"{model}/{version}/{ENTRY_FILE}", read)
        except ObjectNotFound:
            return None
        except DocumentError as error:
            raise UserError(
                f"{uri}/{ENTRY_FILE}: not a registry entry ({error}); put back a copy of it if "
                f"there is one, or move {uri} away and register the model again"
            ) from error

    def _unknown(self, name: str) -> UserError:
        names = sorted({entry.model for entry in self.list()})
        if not names:
            return UserError(
                f"no model {name!r} in {self.uri}, which is empty: `epg run --recipe digits` "
                "registers models, --registry names another place"
            )
        hint = did_you_mean(name, names, cutoff=0.5)
        return UserError(f"no model {name!r}{hint} in {self.uri}: it has {', '.join(names)}")

    def _known(self, model: str, version: str | None, digest: str) -> Registered | None:
        if version is None:
            same = [entry for entry in self.list(model) if entry.digest == digest]
            return same[-1] if same else None
        entry = self._entry(model, version)
        if entry is None or entry.digest == digest:
            return entry
        raise UserError(
            f"model {model!r} version {version!r} in {self.uri} has other weights (digest "
            f"{entry.digest[:12]}..., these have {digest[:12]}...): a version never changes; "
            "choose another one or leave it out for the next free one"
        )

    def _free_versions(self, model: str) -> Iterator[str]:
        """Yield v1, v2, ... without the complete ones; the caller claims one that is free."""
        complete = {entry.version for entry in self.list(model)}
        for number in count(1):
            if f"v{number}" not in complete:
                yield f"v{number}"

    def _write_version(
        self, model: str, version: str, digest: str, files: Mapping[str, Path | bytes]
    ) -> Registered | None:
        """Write a version's files, `model.json` last; None when the version belongs to others."""
        prefix = f"{model}/{version}"
        if not self._claim(f"{prefix}/{CLAIM_FILE}", digest):
            return None
        # Between our look at the versions and our claim somebody may have completed this one.
        entry = self._entry(model, version)
        if entry is None:
            described = {name: self._put(f"{prefix}/{name}", f) for name, f in files.items()}
            content = {
                "epg_kind": _KIND,
                "format": _FORMAT,
                "name": model,
                "version": version,
                "digest": digest,
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "files": described,
            }
            data = json.dumps(sealed(content), indent=1, sort_keys=True).encode() + b"\n"
            try:
                self._store.put_bytes(f"{prefix}/{ENTRY_FILE}", data, if_absent=True)
                created = True
            except ObjectExists:  # the same weights, registered by two at once
                created = False
            entry = self._entry(model, version)
            entry = replace(entry, created=created) if entry is not None else None
        self._store.delete(f"{prefix}/{CLAIM_FILE}")
        return entry if entry is not None and entry.digest == digest else None

    def _claim(self, claim: str, digest: str) -> bool:
        """Claim a version; one that was claimed for the same weights and broke off is ours."""
        content = json.dumps({"digest": digest}).encode()
        try:
            self._store.put_bytes(claim, content, if_absent=True)
        except ObjectExists:
            try:
                return self._store.get_bytes(claim) == content
            except ObjectNotFound:  # completed just now
                return False
        return True

    def _put(self, key: str, source: Path | bytes) -> dict[str, Any]:
        """Write a file and read it back: what is registered is what was meant."""
        if isinstance(source, bytes):
            self._store.put_bytes(key, source)
            digest, size = hashlib.sha256(source).hexdigest(), len(source)
        else:
            self._store.put_file(key, source)
            digest, size = _digest(source), source.stat().st_size
        with self._store.open(key) as file:
            stored = stream_sha256(file)
        if stored != digest:
            raise UserError(
                f"{self.uri}/{key}: what was stored differs from what was sent (SHA-256): check "
                "the store, then run the same command again"
            )
        return {"sha256": digest, "size": size}


def _entry_content(data: bytes) -> dict[str, Any]:
    """Return what an entry says, sealed or of version 0.1. Raises `DocumentError`."""
    content = fields(parse_object(data), _FIELDS, {"format": int, SEAL: str})
    if content["epg_kind"] != _KIND or content.get("format", _FORMAT) != _FORMAT:
        raise DocumentError(f"it is a {content['epg_kind'][:40]!r}, {content.get('format')}")
    content = unseal(content, required="format" in content)
    for name, described in content["files"].items():
        entry = fields(described, {"sha256": str, "size": int})
        if not is_sha256(entry["sha256"]) or entry["size"] < 0:
            raise DocumentError(f"{name[:40]!r} has no SHA-256 and size")
    if content["files"].get(WEIGHTS_FILE, {}).get("sha256") != content["digest"]:
        raise DocumentError(f"its digest is not that of its {WEIGHTS_FILE}")
    return content


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"weights {path}: cannot read them: {error.strerror}") from error

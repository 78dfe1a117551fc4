"""What travels between steps in place of large files: a small JSON that says where they lie.

Weights and statistics stay in the run's store. A pipeline artifact of them is a hand-over: per
object its key, URI, SHA-256 and size, with the stage that made it and the recipe's name. Whoever
takes it over copies an object only when it is needed, and checks its digest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from epg.documents import SEAL, DocumentError, Kind, fields, parse_object, sealed, unseal
from epg.errors import UserError
from epg.runs.record import StageRecord, is_output
from epg.runs.run import Run
from epg.store import Store
from epg.store.reading import fetch_file

KIND = "hand-over"
FORMAT_VERSION = 2  # 1: without a seal
_MAX_BYTES = 1_000_000
_FIELDS: dict[str, Kind] = {
    "epg_kind": str,
    "format_version": int,
    "stage": str,
    "recipe": str,
    "objects": dict,
}


@dataclass(frozen=True)
class StoredObject:
    """One object of a finished stage: key in the run's store, URI, SHA-256, size in bytes."""

    key: str
    uri: str
    sha256: str
    size: int


@dataclass(frozen=True)
class HandOver:
    """Objects of one finished stage, by the names of its outputs."""

    stage: str
    recipe: str
    objects: dict[str, StoredObject]

    @classmethod
    def of(cls, run: Run, record: StageRecord, *names: str) -> HandOver:
        """Hand over outputs of a record, all of them unless some are named.

        Raises:
            UserError: the record has no such output.
        """
        missing = [name for name in names if name not in record.outputs]
        if missing:
            raise UserError(
                f"stage {record.stage!r} of run {run.name!r} has no output {missing[0]!r}: "
                f"it has {', '.join(sorted(record.outputs)) or 'none'}"
            )
        objects = {
            name: StoredObject(uri=f"{run.store.uri}/{entry['key']}", **entry)
            for name, entry in record.outputs.items()
            if not names or name in names
        }
        return cls(record.stage, run.recipe.name, objects)

    def sha256(self, name: str) -> str:
        """Return the digest of an object. Raises `UserError` where it is not handed over."""
        return self._object(name).sha256

    def _object(self, name: str) -> StoredObject:
        if name not in self.objects:
            raise UserError(
                f"the hand-over of stage {self.stage!r} has no {name!r}: run the step that made "
                "it again, without cached results"
            )
        return self.objects[name]

    def fetch(self, store: Store, name: str, path: Path) -> Path:
        """Copy an object to `path` and check its digest.

        Args:
            store: the run's store.
            name: name of the output.
            path: where to; its folder is made.

        Raises:
            UserError: the object is gone or was altered.
        """
        found = self._object(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = fetch_file(store, found.key, path, found.sha256)
        if digest != found.sha256:
            raise UserError(
                f"{store.uri}/{found.key}: SHA-256 is {digest[:12]}..., expected "
                f"{found.sha256[:12]}...: the object was altered; put back a copy of it if there "
                f"is one, or run again with `--from {self.stage}`"
            )
        return path

    def to_json(self) -> bytes:
        """Return the content of the artifact, which `from_json` reads back."""
        content = {"epg_kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(sealed(content), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> HandOver:
        """Read a hand-over. Raises `UserError` for anything that is none."""
        try:
            content = fields(parse_object(data, max_bytes=_MAX_BYTES), _FIELDS, {SEAL: str})
            kind, version = content["epg_kind"], content["format_version"]
            if kind != KIND or version not in (1, FORMAT_VERSION):
                raise DocumentError(f"kind {kind[:40]!r}, version {version}")
            unseal(content, required=version != 1)
            objects = {name: _object(entry) for name, entry in content["objects"].items()}
            return cls(content["stage"], content["recipe"], objects)
        except DocumentError as error:
            raise UserError(
                f"this artifact is no hand-over of version {FORMAT_VERSION} ({error}): run the "
                "step that made it again, without cached results"
            ) from error


def fetch_output(run: Run, record: StageRecord, name: str, path: Path) -> Path:
    """Copy an output of a finished stage to `path` and check its digest."""
    return HandOver.of(run, record, name).fetch(run.store, name, path)


def _object(entry: Any) -> StoredObject:
    known = isinstance(entry, dict) and isinstance(entry.get("uri"), str)
    if not known or not is_output({key: entry[key] for key in entry if key != "uri"}):
        raise DocumentError("an object is a key, a uri, a sha256 and a size")
    return StoredObject(**entry)

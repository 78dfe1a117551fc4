"""The manifest: a few kB that say which shards a data set has and what is in them.

It is written last (its presence means that the shards are complete), it is the only thing that
travels as a pipeline artifact, and every shard is checked against its SHA-256 before use.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
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
from epg.errors import UserError

KIND = "shards"
FORMAT_VERSION = 2
SPLITS = ("train", "held-out")
_MOST = 2**48  # bytes or samples of a shard: sums of many still fit 63 bits
_FIELDS: dict[str, Kind] = {
    "epg_kind": str,
    "format_version": int,
    "source": str,
    "image_size": int,
    "channels": int,
    "classes": list,
    "splits": dict,
    "class_counts": dict,
    "report": dict,
}
#: What format 2 adds; shards and manifests of format 1 are read as they were written.
_FIELDS_2: dict[str, Kind] = {"source_digest": str, "crop": str, "encoding": str}
_SHARD: dict[str, Kind] = {"key": str, "size": int, "sha256": str, "num_samples": int}
_SHARD_2: dict[str, Kind] = {"index_size": int, "index_sha256": str}
_LARGEST_INDEX = 2**28  # bytes
CROPS = ("exact", "fast")
ENCODINGS = ("raw", "png", "jpeg", "passthrough")


@dataclass(frozen=True)
class ShardInfo:
    """One tar: key relative to the run's store, size in bytes, digest, number of samples.

    Beside it lies its index (`index_key`) of `index_size` bytes; "" is the digest of none.
    """

    key: str
    size: int
    sha256: str
    num_samples: int
    index_size: int = 0
    index_sha256: str = ""

    @property
    def index_key(self) -> str:
        """Key of the index."""
        return f"{self.key}.index"


@dataclass(frozen=True)
class Manifest:
    """A data set in shards.

    Attributes:
        source: where the images came from, as in the recipe (`digits`, `folder:PATH`, ...).
        image_size: height and width in pixels.
        channels: 1 or 3.
        classes: class names; the position is the label.
        splits: `train` and `held-out`, each a list of shards in order.
        class_counts: per split, the number of samples of each class.
        report: what was converted, skipped and ignored on the way, by reason.
        source_digest: of what the source held; "" where nobody said.
        crop: how images were cut, one of `CROPS`.
        encoding: how images are stored, one of `ENCODINGS`.
    """

    source: str
    image_size: int
    channels: int
    classes: list[str]
    splits: dict[str, list[ShardInfo]]
    class_counts: dict[str, list[int]]
    report: dict[str, Any] = field(default_factory=dict)
    source_digest: str = ""
    crop: str = "exact"
    encoding: str = "raw"
    epg_kind: str = KIND
    format_version: int = FORMAT_VERSION

    def num_samples(self, split: str) -> int:
        """Return the number of samples of a split. Raises `UserError` for an unknown one."""
        return sum(shard.num_samples for shard in self.shards(split))

    def shards(self, split: str) -> list[ShardInfo]:
        """Return the shards of a split. Raises `UserError` for an unknown one."""
        if split not in self.splits:
            raise UserError(
                f"the manifest of {self.source} has no split {split!r}; "
                f"it has: {', '.join(sorted(self.splits))}"
            )
        return self.splits[split]

    def to_json(self) -> bytes:
        """Return the object's content: the canonical JSON with a seal."""
        return _canonical(sealed(self._content()))

    @property
    def sha256(self) -> str:
        """Identity of this data set: the shards and what is in them, not where they came from.

        The same images under another path are the same data; a report about hidden files beside
        them is no data at all.
        """
        content = replace(self, source="", source_digest="", report={})
        return hashlib.sha256(_canonical(content._content())).hexdigest()

    def _content(self) -> dict[str, Any]:
        """Return the fields that this format has."""
        content = asdict(self)
        if self.format_version == 1:
            for name in _FIELDS_2:
                del content[name]
            for shards in content["splits"].values():
                for shard in shards:
                    for name in _SHARD_2:
                        del shard[name]
        return content

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest; one of version 0.1 has no seal. Raises `UserError` for any other."""
        try:
            raw = parse_object(data)
        except DocumentError as error:
            raise _not_a_manifest(str(error)) from None
        if raw.get("epg_kind") != KIND:
            raise _not_a_manifest(f'"epg_kind": "{KIND}" is missing')
        version = raw.get("format_version")
        if version not in (1, FORMAT_VERSION) or isinstance(version, bool):
            raise _not_a_manifest(
                f"format_version is {version!r}, this version of epg reads 1 and {FORMAT_VERSION}"
            )
        kinds = _FIELDS if version == 1 else {**_FIELDS, **_FIELDS_2}
        try:
            content = unseal(fields(raw, kinds, {SEAL: str}), required=version != 1)
            return cls(**{**content, "splits": _splits(content["splits"])})._checked()
        except DocumentError as error:
            raise _not_a_manifest(f"wrong field: {error}") from None

    def _checked(self) -> Manifest:
        """Return itself if all fields have sound values that agree. Raises `DocumentError`."""
        _require(1 <= self.image_size <= 65536, "image_size")
        _require(self.channels in (1, 3), "channels")
        _require(_all_are(str, self.classes) and len(self.classes) >= 1, "classes")
        _require(set(self.class_counts) == set(self.splits), "class_counts")
        _require(self.crop in CROPS, "crop")
        _require(self.encoding in ENCODINGS, "encoding")
        for split, shards in self.splits.items():
            counts: Any = self.class_counts[split]
            _require(
                isinstance(counts, list)
                and len(counts) == len(self.classes)
                and all(_is_int(n) and n >= 0 for n in counts),
                f"class_counts.{split}",
            )
            _require(sum(counts) == sum(s.num_samples for s in shards), f"class_counts.{split}")
        return self


def shard_info(raw: object) -> ShardInfo:
    """Return one shard's entry. Raises `DocumentError` for anything else."""
    shard = ShardInfo(**fields(raw, _SHARD, _SHARD_2))
    _require(0 <= shard.size < _MOST and 1 <= shard.num_samples < _MOST, "size or num_samples")
    parts = shard.key.split("/")
    safe = "\0" not in shard.key and not {"", ".", ".."} & set(parts)
    _require(safe, f"key {shard.key[:80]!r}")
    _require(is_sha256(shard.sha256), f"sha256 of {shard.key[:80]!r}")
    indexed = is_sha256(shard.index_sha256) and 0 < shard.index_size <= _LARGEST_INDEX
    none = not shard.index_sha256 and not shard.index_size
    _require(indexed or none, f"index of {shard.key[:80]!r}")
    return shard


def _splits(raw: dict[str, Any]) -> dict[str, list[ShardInfo]]:
    _require(set(raw) == set(SPLITS), "splits")
    splits = {}
    for split, shards in raw.items():
        _require(isinstance(shards, list), f"splits.{split}")
        try:
            splits[split] = [shard_info(shard) for shard in shards]
        except DocumentError as error:
            raise DocumentError(f"splits.{split}: {error}") from None
    return splits


def _canonical(content: dict[str, Any]) -> bytes:
    """Return JSON with sorted keys, no spaces, ASCII, one newline at the end."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all_are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise DocumentError(what)


def _not_a_manifest(reason: str) -> UserError:
    return UserError(f"this is not a shard manifest: {reason}; make one with `epg shard`")

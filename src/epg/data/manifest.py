"""The manifest: a few kB that say which shards a data set has and what is in them.

It is written last (its presence means that the shards are complete), it is the only thing that
travels as a pipeline artifact, and every shard is checked against its SHA-256 before use.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from epg.errors import UserError

KIND = "shards"
FORMAT_VERSION = 1
SPLITS = ("train", "held-out")
_MAX_BYTES = 64 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardInfo:
    """One tar: key relative to the run's store, size in bytes, digest, number of samples."""

    key: str
    size: int
    sha256: str
    num_samples: int


@dataclass(frozen=True)
class Manifest:
    """A data set in shards.

    Attributes:
        source: where the images came from, as in the recipe (`digits`, `folder:PATH`).
        image_size: height and width in pixels.
        channels: 1 or 3.
        classes: class names; the position is the label.
        splits: `train` and `held-out`, each a list of shards in order.
        class_counts: per split, the number of samples of each class.
        report: what was converted, skipped and ignored on the way, by reason.
    """

    source: str
    image_size: int
    channels: int
    classes: list[str]
    splits: dict[str, list[ShardInfo]]
    class_counts: dict[str, list[int]]
    report: dict[str, Any] = field(default_factory=dict)
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
        """Return the canonical JSON: sorted keys, no spaces, ASCII, one newline at the end."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode("ascii") + b"\n"

    @property
    def sha256(self) -> str:
        """Identity of this data set: the shards and what is in them, not where they came from.

        The same images under another path are the same data; a report about hidden files beside
        them is no data at all.
        """
        return hashlib.sha256(replace(self, source="", report={}).to_json()).hexdigest()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest. Raises `UserError` for anything that is not one."""
        if len(data) > _MAX_BYTES:
            raise _not_a_manifest(f"it has {len(data)} bytes, at most {_MAX_BYTES} are read")
        try:
            raw = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise _not_a_manifest(f"it is not JSON ({error})") from None
        if not isinstance(raw, dict) or raw.get("epg_kind") != KIND:
            raise _not_a_manifest(f'"epg_kind": "{KIND}" is missing')
        if raw.get("format_version") != FORMAT_VERSION:
            raise _not_a_manifest(
                f"format_version is {raw.get('format_version')!r}, "
                f"this version of epg reads {FORMAT_VERSION}"
            )
        try:
            return cls(**{**raw, "splits": _splits(raw["splits"])})._checked()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _not_a_manifest(f"wrong field: {error}") from None

    def _checked(self) -> Manifest:
        """Return itself if all fields have the right types and agree. Raises `ValueError`."""
        _require(_is_int(self.image_size) and 1 <= self.image_size <= 65536, "image_size")
        _require(self.channels in (1, 3) and _is_int(self.channels), "channels")
        _require(_all_are(str, [self.source]), "source")
        _require(_all_are(str, self.classes) and len(self.classes) >= 1, "classes")
        _require(set(self.class_counts) == set(self.splits), "class_counts")
        _require(_all_are(dict, [self.report]), "report")
        for split, shards in self.splits.items():
            counts = self.class_counts[split]
            _require(
                len(counts) == len(self.classes) and all(_is_int(n) and n >= 0 for n in counts),
                f"class_counts.{split}",
            )
            _require(sum(counts) == sum(s.num_samples for s in shards), f"class_counts.{split}")
        return self


def _splits(raw: dict[str, list[dict[str, Any]]]) -> dict[str, list[ShardInfo]]:
    _require(set(raw) == set(SPLITS), "splits")
    splits = {split: [ShardInfo(**shard) for shard in shards] for split, shards in raw.items()}
    for split, shards in splits.items():
        for shard in shards:
            sizes = _is_int(shard.size) and _is_int(shard.num_samples)
            good = sizes and shard.size >= 0 and shard.num_samples >= 1
            _require(good and _all_are(str, [shard.key, shard.sha256]), f"splits.{split}")
            parts = shard.key.split("/")
            safe = "\0" not in shard.key and not {"", ".", ".."} & set(parts)
            _require(safe, f"splits.{split}: key {shard.key!r}")
            digest = _SHA256.fullmatch(shard.sha256)
            _require(digest is not None, f"splits.{split}: sha256 of {shard.key!r}")
    return splits


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all_are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _not_a_manifest(reason: str) -> UserError:
    return UserError(f"this is not a shard manifest: {reason}; make one with `epg shard`")

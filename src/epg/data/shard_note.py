"""The note beside a shard: what is known of it that its bytes do not tell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from epg.data.manifest import ShardInfo, shard_info
from epg.data.pixels import PixelSums
from epg.documents import SEAL, DocumentError, Kind, fields, parse_object, sealed, unseal

_FIELDS: dict[str, Kind] = {
    "num_items": int,
    "shard": (dict, type(None)),
    "class_counts": dict,
    "converted": dict,
    "skipped": list,
    "pixels": dict,
    SEAL: str,
}
_LATER: dict[str, Kind] = {"plan": str}  # notes of version 0.2 have none


def note_key(shard_key: str) -> str:
    """Return the key of a shard's note."""
    return f"{shard_key}.part.json"


@dataclass
class ShardNote:
    """What is known of a shard once it is written.

    Attributes:
        num_items: images that were to go into it.
        shard: None where none of them could be used.
        class_counts: samples by label.
        converted: samples by the rule that was applied.
        skipped: name, reason and detail of each image that could not be used.
        pixels: sums over the samples.
        plan: which images were to go into it, as `PlannedShard.digest` says it.
    """

    num_items: int
    shard: ShardInfo | None = None
    class_counts: dict[int, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    pixels: PixelSums = field(default_factory=PixelSums)
    plan: str = ""

    def to_json(self) -> bytes:
        """Return what `from_json` reads."""
        content = {**asdict(self), "pixels": self.pixels.to_note()}
        return json.dumps(sealed(content), sort_keys=True).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> ShardNote:
        """Read a note. Raises `DocumentError`, also for one of version 0.1, which has no seal."""
        raw = unseal(fields(parse_object(data), _FIELDS, _LATER), required=True)
        shard = shard_info(raw["shard"]) if raw["shard"] is not None else None
        for counted in (raw["class_counts"], raw["converted"]):
            fields(counted, {}, dict.fromkeys(counted, int))
        for bad in raw["skipped"]:
            if not isinstance(bad, list) or [type(text) for text in bad] != [str] * 3:
                raise DocumentError("a skipped image is a name, a reason and a detail")
        try:
            counts = {int(label): n for label, n in raw["class_counts"].items()}
        except ValueError:
            raise DocumentError("a class is no number") from None
        skipped = [(name, reason, detail) for name, reason, detail in raw["skipped"]]
        pixels = PixelSums.from_note(raw["pixels"])
        converted, plan = raw["converted"], raw.get("plan", "")
        return cls(raw["num_items"], shard, counts, converted, skipped, pixels, plan)

"""How a figure was measured, and the one question that it answers: may two be compared?

Two figures may be compared exactly when their protocols' hashes are equal. Light to import: gate,
registry and report ask it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from epg.measures import Measure, find

#: Goes up whenever a change of ours changes the value of a figure.
VERSIONS: dict[str, int] = {}
#: Features kept for precision and recall and their kin: of generated images (0.4 GB of Inception's)
#: and of real ones, as in the ADM suite. Both are a part of what these figures mean.
SAMPLE_FEATURES, REFERENCE_FEATURES = 50_000, 10_000
#: What the record of an evaluation calls the facts, and the hash of every figure.
FACTS, HASHES = "protocol", "protocol_hashes"


@dataclass(frozen=True)
class FeatureSpace:
    """A feature network with its weights."""

    name: str
    weights: str  # SHA-256 over the tensors


@dataclass(frozen=True)
class Reference:
    """The real images.

    Attributes:
        split: `train` or `held-out` of a data set, or `file`.
        num_images: how many; 0 where a file does not say.
        digest: SHA-256 of what they are: the data set's, or the file's.
        source: where they are from, for people; no part of the hash.
        network_assumed: a file of statistics does not say whose features they are, so that they
            are the network's is a supposition; no part of the hash, which has the file's digest.
    """

    split: str
    num_images: int
    digest: str
    source: str = ""
    network_assumed: bool = False


@dataclass(frozen=True)
class Protocol:
    """Everything that the figures of one evaluation depend on besides the generator.

    Attributes:
        networks: name in the recipe -> the network that measured.
        references: name in the recipe -> what it was compared with; `""` for figures in no
            network's features.
        num_samples: generated images.
        labels: how their classes were drawn: `balanced`, `random` or `unknown`.
        neighbours: k of precision and recall.
        svc: settings of the judge on raw pixels, where there is one.
    """

    networks: Mapping[str, FeatureSpace]
    references: Mapping[str, Reference]
    num_samples: int
    labels: str
    neighbours: int
    svc: Mapping[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """Return it as JSON, for a record and for people."""
        return asdict(self)

    def hashes(self, names: Mapping[str, Any]) -> dict[str, str]:
        """Return name of a figure -> hash, of those of `names` that have a protocol."""
        return {
            name: _digest(content)
            for name in names
            if (measure := find(name)) is not None and (content := self._of(measure)) is not None
        }

    def _of(self, measure: Measure) -> dict[str, Any] | None:
        """Return what one figure depends on; None where it is a count, a cost or a speed."""
        if not measure.judges:
            return None
        kind = self.network_of(measure)
        network = self.networks.get(kind)
        reference = self.references.get(kind) if measure.compares else None
        content = {
            "figure": measure.base,
            "version": VERSIONS.get(measure.base, 1),
            "network": asdict(network) if network else None,
            "reference": [reference.split, reference.num_images, reference.digest]
            if reference
            else None,
            "num_samples": self.num_samples if measure.of_samples else None,
            "labels": self.labels if measure.of_samples else None,
            "neighbours": self.neighbours if measure.base in ("precision", "recall") else None,
        }
        if measure.base == "svc_agreement":
            content["svc"] = self.svc
        return content

    def network_of(self, measure: Measure) -> str:
        """Return the recipe's name of the network that gives a figure; empty: none does."""
        if not measure.networks:
            return ""
        if measure.shared:
            return next(iter(self.networks), "")
        return measure.networks[0]


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def incomparable(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say why a figure of two evaluations may not be compared; empty where it may.

    Args:
        name: of the figure.
        ours: details of an evaluation's record, which hold facts and hashes.
        theirs: those of another evaluation.
    """
    measure = find(name)
    if measure is not None and not measure.judges:
        return ""
    one, other = (_known(side).get(name) for side in (ours, theirs))
    if one is None or other is None:
        return "no protocol is known of it"
    if one == other:
        return ""
    return _difference(ours.get(FACTS), theirs.get(FACTS)) or f"protocol {one}, not {other}"


def _known(details: Mapping[str, Any]) -> Mapping[str, Any]:
    found = details.get(HASHES)
    return found if isinstance(found, Mapping) else {}


def _difference(one: Any, other: Any, path: str = "") -> str:
    """Name the first fact that differs: `num_samples is 1000, not 50000`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            if key in ("source", "network_assumed"):
                continue
            found = _difference(one.get(key), other.get(key), f"{path}.{key}".strip("."))
            if found:
                return found
        return ""
    return "" if one == other else f"{path} is {_short(one)}, not {_short(other)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."

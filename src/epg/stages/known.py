"""Statistics of real images that all runs of a store share, by what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epg.errors import UserError
from epg.protocol import REFERENCE_FEATURES
from epg.store import Store, open_store
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    from epg.evaluation.features.base import Description, FeatureNetwork, Statistics
    from epg.evaluation.sources import Images

VERSION = 1  # of the statistics; up with every change of what they are


@dataclass(frozen=True)
class KnownStatistics:
    """Those of one set of images.

    Attributes:
        root: URI of the store of the runs.
        split: `train` or `held-out` of a data set, or `file`.
        digest: SHA-256 of what the images are: the data set's, or the file's.
        networks: name in the recipe -> who looks.
    """

    root: str
    split: str
    digest: str
    networks: Mapping[str, FeatureNetwork]

    @property
    def store(self) -> Store:
        """Where they lie."""
        return open_store(self.root).sub("statistics")

    def find(
        self, kinds: Iterable[str], scratch: Path, reporter: StageReporter
    ) -> dict[str, Statistics]:
        """Return those of the networks `kinds` that are known; damaged ones are not."""
        from epg.evaluation.features.base import Statistics

        found: dict[str, Statistics] = {}
        for kind in kinds:
            name = self._name(kind)
            if self.store.size(name) is None:
                continue
            path = scratch / f"known-{kind}.npz"
            self.store.get_file(name, path)
            try:
                found[kind] = Statistics.from_npz(path, self.networks[kind])
            except UserError:
                continue
            reporter.message(f"{kind}: statistics of these images are known ({name})")
        return found

    def keep(self, kind: str, statistics: Statistics) -> None:
        """Keep what a network sees."""
        self.store.put_bytes(self._name(kind), statistics.to_npz(self.networks[kind]))

    def _name(self, kind: str) -> str:
        network = self.networks[kind]
        facts = [network.name, network.weights_digest, self.split, REFERENCE_FEATURES]
        text = json.dumps([*facts, self.digest, VERSION])
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def statistics_of(
    images: Images,
    networks: Mapping[str, FeatureNetwork],
    look: Callable[[Mapping[str, FeatureNetwork]], Mapping[str, Description]],
    *,
    root: str,
    scratch: Path,
    reporter: StageReporter,
) -> dict[str, Statistics]:
    """Return what networks see in given images: what is known of them, else they look once.

    Args:
        images: they.
        networks: name in the recipe -> who looks.
        look: returns what networks see in the images.
        root: URI of the store of the runs.
        scratch: local folder.
        reporter: hears of messages, and how far the reading for their digest is.
    """
    from epg.evaluation.features.base import Statistics
    from epg.evaluation.sources import content_digest

    total = len(images.labels)
    digest = content_digest(
        images, lambda done: reporter.progress(done, total, "reference images read")
    )
    shared = KnownStatistics(root, "file", digest, networks)
    known = shared.find(networks, scratch, reporter)
    needed = {kind: network for kind, network in networks.items() if kind not in known}
    for kind, one in (look(needed) if needed else {}).items():
        known[kind] = Statistics(one.moments, one.spatial, one.features)
        shared.keep(kind, known[kind])
    return {kind: known[kind] for kind in networks}

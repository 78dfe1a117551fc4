"""One process's share of looking at a set of images: from pixels on the device to parts.

Nothing but sums, features and a few pictures is kept of the images; see `parts.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epg.evaluation.features.base import FeatureNetwork
from epg.evaluation.features.describing import GROUP, Describer
from epg.evaluation.metrics.moments import Scatter
from epg.evaluation.parts import Part, Pictures, Stretch

#: Images that are kept at either end of the judge's ranking.
RANKED = 16
#: Bytes of the first images of a set that are kept, for grids and for judges of pixels.
KEPT_BYTES = 64_000_000
#: At most so long until what was seen is stored; up to 0.5 GB at once for Inception.
PART_SECONDS = 600.0


class ImageSource(Protocol):
    """A set of images of which any span can be read.

    Attributes:
        labels: class of every image, int64 [N]; of real ones, once they were read.
    """

    labels: NDArray[np.int64]

    def read(self, start: int, end: int) -> Tensor:
        """Return the images `start` ... `end` - 1 as uint8 [n, H, W, C], on the device."""
        ...


class TimedSource(ImageSource, Protocol):
    """A set of images that knows what they cost."""

    @property
    def images_per_second(self) -> float:
        """Throughput so far."""
        ...

    def facts(self) -> dict[str, float]:
        """Return sums over the images so far: `seconds`, and what else there is to say."""
        ...


class Watcher(Protocol):
    """Hears of a share's progress."""

    def put(self, part: Part) -> None:
        """A part is whole: keep it."""
        ...

    def seen(self, count: int, sums: Callable[[], Mapping[str, Scatter]]) -> None:
        """So many more images were seen; `sums` gives those of the part in the making."""
        ...


@dataclass(frozen=True)
class Look:
    """How a set is looked at.

    Attributes:
        networks: name in the recipe -> who looks.
        source: the images.
        keep: features to keep; see `Describer`.
        first: how many of the first images are kept.
        judge: which network's confidence ranks the images; empty: none.
        facts: numbers of this process's work so far, such as seconds; they go into its parts.
        part_seconds: see `PART_SECONDS`.
    """

    networks: Mapping[str, FeatureNetwork]
    source: ImageSource
    keep: int
    first: int
    judge: str = ""
    facts: Callable[[], dict[str, float]] = dict
    part_seconds: float = field(default_factory=lambda: PART_SECONDS)

    def at(self, spans: Sequence[Stretch], watcher: Watcher) -> None:
        """Look at spans, in order; a part ends where time is up, at a gap, and at the end."""
        told: dict[str, float] = {}
        gathering: _Gathering | None = None
        for position, (start, end) in enumerate(spans):
            gathering = gathering or _Gathering(self, start)
            gathering.add(start, end)
            watcher.seen(end - start, gathering.sums)
            last = position + 1 == len(spans) or spans[position + 1][0] != end
            if last or gathering.seconds > self.part_seconds:
                facts = self.facts()
                added = {name: value - told.get(name, 0.0) for name, value in facts.items()}
                watcher.put(gathering.part(end, added))
                told, gathering = facts, None


def span_of(batch_size: int) -> int:
    """Return how many images are read at a time: whole groups, about a batch."""
    return max(GROUP, batch_size // GROUP * GROUP)


def kept_images(count: int, image_bytes: int) -> int:
    """Return how many of the first images of a set are kept: all of them where they are small."""
    return min(count, max(KEPT_BYTES // image_bytes, 1))


class _Gathering:
    """A part in the making."""

    def __init__(self, look: Look, start: int) -> None:
        self._look, self._start = look, start
        self._kinds = list(look.networks)
        self._describer = Describer(list(look.networks.values()), look.keep)
        self._kept: list[Pictures] = []
        self._ranked: list[Pictures] = []
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Age of the part."""
        return time.monotonic() - self._begun

    def add(self, start: int, end: int) -> None:
        """Look at one span, a neighbour of the one before."""
        images, labels = self._look.source.read(start, end), self._look.source.labels[start:end]
        confidences = self._describer.add(images, labels, start)
        self._none = _first(images[:0], start)
        if start < self._look.first:
            self._kept.append(_first(images[: self._look.first - start], start))
        if self._look.judge:
            sure = confidences[self._kinds.index(self._look.judge)]
            found = _ends(images, start, sure)
            self._ranked = [Pictures.joined([*self._ranked, found], RANKED)]

    def sums(self) -> dict[str, Scatter]:
        """Return the sums of the pooled features so far, by network."""
        scatters = self._describer.scatters()
        return dict(zip(self._kinds, scatters, strict=True))

    def part(self, end: int, facts: Mapping[str, float]) -> Part:
        """Return the whole part, which ends before image `end`."""
        seen = dict(zip(self._kinds, self._describer.seen(), strict=True))
        pictures = Pictures.joined([self._none, *self._kept, *self._ranked], RANKED)
        labels = self._look.source.labels[self._start : end]
        return Part((self._start, end), labels, seen, pictures, facts)


def _first(images: Tensor, start: int) -> Pictures:
    """Keep images that belong to the first ones of the set."""
    kept = images.cpu().numpy()
    index = np.arange(start, start + len(kept), dtype=np.int64)
    return Pictures(kept, index, kept[:0], index[:0], np.zeros(0, np.float32))


def _ends(images: Tensor, start: int, confidence: Tensor) -> Pictures:
    """Keep of a span the images that the judge is surest and least sure of."""
    known = torch.nonzero(~confidence.isnan())[:, 0]
    order = known[confidence[known].argsort(stable=True)]
    if len(order) > 2 * RANKED:
        order = torch.cat([order[:RANKED], order[-RANKED:]])
    kept = images[order.to(images.device)].cpu().numpy()
    index = order.numpy() + start
    return Pictures(kept[:0], index[:0], kept, index, confidence[order].numpy())

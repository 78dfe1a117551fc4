"""What is told while a set of images is looked at: how far, how fast, and how good so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from epg.evaluation.features.base import Statistics
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.moments import Scatter
from epg.evaluation.parts import Part

_ESTIMATES = 10  # of the distance while images come; one takes a second for 2,048 features

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass
class Running:
    """Keeps the parts of a share, and estimates the first network's distance now and then.

    Attributes:
        total: images of the whole set.
        seen_before: of them, seen by earlier processes.
        kind: the network whose distance is estimated.
        real: what it sees in real images; None: nothing is estimated.
        report: called with (images seen, total, values).
        share: of the images that nobody has seen yet, those of this process: the others are taken
            to be as far as this one is.
        store: keeps a whole part; None: it stays in memory alone.
        rate: images per second so far, where they are made.
        parts: those that are whole.
    """

    total: int
    seen_before: int
    kind: str
    real: Statistics | None
    report: Progress
    share: float = 1.0
    store: Callable[[Part], None] | None = None
    rate: Callable[[], float] | None = None
    parts: list[Part] = field(default_factory=list)
    _count: int = 0
    _estimated: int = 0
    _estimate: float | None = None

    def put(self, part: Part) -> None:
        """Keep a whole part."""
        self.parts.append(part)
        if self.store is not None:
            self.store(part)

    def seen(self, count: int, sums: Callable[[], Mapping[str, Scatter]]) -> None:
        """Tell how far the work is."""
        self._count += count
        done = self.seen_before + round(self._count / self.share)
        tenth = done * _ESTIMATES // self.total
        if self.real is not None and tenth > self._estimated and done < self.total:
            self._estimated = tenth
            known = [part.seen[self.kind].pool for part in self.parts]
            found = Scatter.joined([*known, sums()[self.kind]]).moments()
            self._estimate = frechet_distance(self.real.moments, found)
        values = {} if self.rate is None else {"images_per_second": self.rate()}
        if self._estimate is not None:
            values["distance"] = self._estimate
        self.report(done, self.total, values)

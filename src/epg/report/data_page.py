"""The data report: what a source became, on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from epg.report.html import render
from epg.report.images import embed

_MOST_CLASSES = 1_000  # rows of the table; the page stays below 2 MB
_MOST_NAMED = 100


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set.

    Attributes:
        source: where the images came from.
        figures: (name, value) for the head of the page.
        classes: names; the position is the label.
        counts: images of each class, by split.
        rules: conversions and how many images met them.
        refused: reasons and how many images were skipped for them.
        refused_images: names with what is wrong with each, the first hundred.
        ignored: what lay there and is no sample, by reason.
        sides: (words, images) by the shorter side of the originals.
        sizes: (words, images) by the bytes that are stored.
        samples: (class, PNG of its first images).
    """

    source: str
    figures: Sequence[tuple[str, str]]
    classes: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    rules: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    refused_images: Sequence[str] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    sides: Sequence[tuple[str, int]] = ()
    sizes: Sequence[tuple[str, int]] = ()
    samples: Sequence[tuple[str, bytes]] = ()


def data_page(facts: DataFacts) -> str:
    """Return the page; every name on it is text, and nothing is loaded from anywhere."""
    most = max((n for counts in facts.counts.values() for n in counts), default=1) or 1
    rows = [
        (label, name, [(counts[label], 100 * counts[label] / most) for counts in
                       facts.counts.values()])
        for label, name in enumerate(facts.classes[:_MOST_CLASSES])
    ]  # fmt: skip
    return render(
        "data.html.j2",
        facts=facts,
        splits=list(facts.counts),
        rows=rows,
        more_classes=max(0, len(facts.classes) - _MOST_CLASSES),
        named=list(facts.refused_images[:_MOST_NAMED]),
        bars=[
            (title, [(words, n, 100 * n / max(m for _, m in values)) for words, n in values])
            for title, values in (
                ("Shorter side of the originals, pixels", facts.sides),
                ("Bytes of a stored image", facts.sizes),
            )
            if values
        ],
        tables=[
            (title, sorted(values.items(), key=lambda pair: (-pair[1], pair[0])))
            for title, values in (
                ("Converted, by rule", facts.rules),
                ("Refused, by reason", facts.refused),
                ("Left out: no samples", facts.ignored),
            )
        ],
        pictures=[
            (name, picture)
            for name, png in facts.samples
            if (picture := embed(png, 20_000)) is not None
        ],
    )

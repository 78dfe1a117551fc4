"""A part of a source, for small trials: some classes, and no more than so many images of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from epg.data.sources.base import Item, Reading, Source
from epg.errors import UserError, did_you_mean


def chosen_labels(
    wanted: Sequence[str | int], classes: Sequence[str], aliases: Mapping[str, int], spec: str
) -> list[int]:
    """Return the labels of the wanted classes, ascending.

    A text is a class's name, or another name that the source knows (a synset); a number, also as
    text, is a label unless a class is called so.

    Raises:
        UserError: an unknown class.
    """
    names = {name: label for label, name in enumerate(classes)}
    found = set()
    for one in map(str, wanted):
        label = names.get(one, aliases.get(one))
        if label is None and one.isascii() and one.isdigit() and len(one) < 10:
            numbered = any(name.isdigit() for name in classes)
            label = int(one) if int(one) < len(classes) and not numbered else None
        if label is None:
            hint = did_you_mean(one, [*names, *aliases])
            raise UserError(
                f"data.classes has {one!r}: no class of {spec}{hint}: give names, or numbers from "
                f"0 to {len(classes) - 1}"
            )
        found.add(label)
    return sorted(found)


class SelectedSource:
    """Some classes of a source, and the first `limit` images of each class in each split.

    Classes keep their order and are numbered anew; items keep their number within the class.

    Args:
        source: the whole.
        labels: of the classes that stay, ascending.
        limit: None for all images.

    Raises:
        UserError: fewer than two classes stay.
    """

    def __init__(self, source: Source, labels: Sequence[int], limit: int | None) -> None:
        if len(labels) < 2:
            raise UserError(
                f"data.classes: {len(labels)} class of {source.spec}; at least 2 are needed"
            )
        self._source, self._labels = source, list(labels)
        place = {label: number for number, label in enumerate(labels)}
        self.spec, self.ignored = source.spec, source.ignored
        self.classes = [source.classes[label] for label in labels]
        kept = [
            (position, item._replace(label=place[item.label]))
            for position, item in enumerate(source.items)
            if item.label in place and (limit is None or item.number < limit)
        ]
        self.items: list[Item] = [item for _, item in kept]
        blocks = getattr(source, "blocks", None)
        self.blocks = None if blocks is None else blocks[[position for position, _ in kept]]

    def read(self, items: Iterable[Item]) -> Reading:
        """Yield images, each uint8 [H, W, C]."""
        whole = (item._replace(label=self._labels[item.label]) for item in items)
        reading = self._source.read(whole)
        place = {label: number for number, label in enumerate(self._labels)}
        try:
            for item, image in reading:
                yield item._replace(label=place[item.label]), image
        finally:
            reading.close()

"""From labels as a data set writes them to classes: numbers, or names."""

from __future__ import annotations

from collections.abc import Iterable

from epg.data.sources.volumes import Volume
from epg.errors import UserError, printable, shown_names

#: Beside the data: the classes' names, one a line, in the order of their numbers.
NAMES_FILE = "classes.txt"
_MOST_BYTES = 16 * 1024**2
_MOST_CLASSES = 1_000_000


def read_names(volume: Volume) -> list[str]:
    """Return the lines of a `classes.txt`. Raises `UserError` unless each is a name of its own."""
    if volume.size > _MOST_BYTES:
        raise UserError(f"{volume.place}: {volume.size:,} bytes, too many for names of classes")
    try:
        text = volume.read(0, volume.size).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{volume.place}: not UTF-8 text: save it as UTF-8") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < 5000 else []
    if not names or twice or len(set(names)) < len(names):
        raise UserError(
            f"{volume.place}: one name a line, each once"
            + (f"; there more than once: {shown_names(twice)}" if twice else "")
        )
    return names


def classes_of(
    spec: str, labels: Iterable[str], names: list[str] | None
) -> tuple[list[str], dict[str, int]]:
    """Return the classes, and each label's place among them.

    Labels that are all numbers keep their order, and have `names` (or themselves) for names; other
    labels are names themselves, in bytewise order.

    Raises:
        UserError: fewer than two, a number without a name, a name that is not among `names`.
    """
    found = set(labels)
    if len(found) < 2:
        only = f": {next(iter(found))!r}" if found else ""
        raise UserError(
            f"{spec}: {'only one class' if found else 'no labelled image'}{only}; at least 2 "
            "classes are needed"
        )
    numbers = all(label.isascii() and label.isdigit() and len(label) < 10 for label in found)
    if not numbers:
        return _named(spec, found, names)
    highest = max(int(label) for label in found)
    if highest >= _MOST_CLASSES:
        raise UserError(f"{spec}: the label {highest}: at most {_MOST_CLASSES:,} classes are read")
    by_label = {label: int(label) for label in found}
    if names is not None:
        if highest >= len(names):
            raise UserError(
                f"{spec}: the label {highest}, but {NAMES_FILE} has {len(names)} names (0 to "
                f"{len(names) - 1}): add what is missing"
            )
        return [printable(name) for name in names], by_label
    missing = sorted(set(range(highest + 1)) - set(by_label.values()))
    if missing == [0]:  # a set that counts from 1
        return [str(n) for n in range(1, highest + 1)], {k: v - 1 for k, v in by_label.items()}
    if missing:
        raise UserError(
            f"{spec}: labels go from 0 to {highest}, but no image has "
            f"{', '.join(map(str, missing[:3]))}{' and others' if len(missing) > 3 else ''}: add "
            "images, or number the classes anew"
        )
    return [str(n) for n in range(highest + 1)], by_label


def _named(spec: str, found: set[str], names: list[str] | None) -> tuple[list[str], dict[str, int]]:
    ordered = names if names is not None else sorted(found, key=str.encode)
    unknown = sorted(found - set(ordered))
    if unknown:
        raise UserError(
            f"{spec}: {NAMES_FILE} lacks {shown_names(unknown)}, which images are labelled with"
        )
    place = {name: number for number, name in enumerate(ordered)}
    return [printable(name) for name in ordered], {label: place[label] for label in found}

"""Where images come from: one module per scheme of `data.source`, in one table."""

from __future__ import annotations

from collections.abc import Iterable

from epg.data.settings import ImageSettings
from epg.data.sources import digits, folder, idx, imagenet, parquet, webdataset
from epg.data.sources.base import (
    BadImageError,
    Image,
    Item,
    OnRead,
    Scheme,
    Source,
    SourceNotFound,
)
from epg.data.sources.contents import Contents, changes_in_words
from epg.data.sources.selection import SelectedSource, chosen_labels
from epg.errors import UserError

__all__ = [
    "SCHEMES",
    "BadImageError",
    "Contents",
    "Image",
    "Item",
    "Source",
    "SourceNotFound",
    "absolute_spec",
    "changes_in_words",
    "count_classes",
    "is_quick",
    "open_source",
    "source_contents",
]

#: What stands before the colon of `data.source`, and who reads what stands behind it.
SCHEMES: dict[str, Scheme] = {
    "digits": digits,
    "folder": folder,
    "idx": idx,
    "imagenet": imagenet,
    "parquet": parquet,
    "webdataset": webdataset,
}


def open_source(
    spec: str, config: ImageSettings, seed: int = 0, contents: Contents | None = None
) -> Source:
    """Return the source that `spec` names, split into train and held-out by `seed`.

    Args:
        spec: as in the recipe.
        config: the recipe's `data`.
        seed: of the split.
        contents: what `source_contents` has found out: archives need not be looked through again.

    Raises:
        UserError: unknown source, unusable folder, or a source that contradicts `config`.
    """
    scheme, location = _resolve(spec)
    source = scheme.open(location, config, seed, contents)
    if config.classes is not None or config.limit is not None:
        aliases = getattr(source, "aliases", {})
        every = range(len(source.classes))
        wanted = every if config.classes is None else config.classes
        labels = chosen_labels(wanted, source.classes, aliases, source.spec)
        source = SelectedSource(source, labels, config.limit)
    if config.num_classes is not None and len(source.classes) != config.num_classes:
        raise UserError(
            f"data.num_classes is {config.num_classes}, but {spec} has {len(source.classes)} "
            f"classes: use --set data.num_classes={len(source.classes)}"
        )
    return source


def count_classes(spec: str) -> int:
    """Return the number of classes without opening an image.

    Raises:
        UserError: unknown source or unusable folder.
    """
    scheme, location = _resolve(spec)
    return scheme.count_classes(location)


def is_quick(spec: str) -> bool:
    """Tell whether a source can be listed at once: no archive is gone through, nothing fetched."""
    name, _, location = spec.partition(":")
    return name in ("digits", "folder", "idx", "parquet") and "://" not in location


def source_contents(
    spec: str, known: Iterable[Contents] = (), on_progress: OnRead | None = None
) -> Contents:
    """Return what the data of `spec` are: names and bytes, no path and no time.

    Args:
        spec: as in the recipe.
        known: contents that were noted before; what they vouch for is not read again.
        on_progress: called with (files read, files to read).

    Raises:
        SourceNotFound: the source is not on this machine.
        UserError: unknown source or unusable folder.
    """
    scheme, location = _resolve(spec)
    return scheme.contents(location, known, on_progress)


def absolute_spec(spec: str) -> str:
    """Return `spec` with its folder made absolute, so that it means the same in any process.

    Raises:
        UserError: unknown source.
    """
    scheme, location = _resolve(spec)
    return f"{spec.partition(':')[0]}:{scheme.absolute(location)}" if location else spec


def _resolve(spec: str) -> tuple[Scheme, str]:
    """Return a spec's scheme and what stands behind the colon, if its usage has one."""
    name, colon, location = spec.partition(":")
    scheme = SCHEMES.get(name)
    if scheme is None or bool(colon) != (":" in scheme.USAGE) or bool(colon) != bool(location):
        usages = ", or ".join(each.USAGE for each in SCHEMES.values())
        raise UserError(f"data.source is {spec!r}: use {usages}")
    return scheme, location

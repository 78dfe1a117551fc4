"""Write a source into shards: the same samples, settings and seed give the same bytes.

Samples of a split are shuffled once, so that every shard holds a mix of classes; which sample
belongs to which shard does not depend on what turns out to be unreadable. So each shard stands for
itself: a note beside a finished one lets an interrupted run go on, parts of the set may be written
by several processes (`epg.data.shares`), and a shard that is lost later is written alone. The
manifest, which gathers the notes, is written last.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from itertools import chain, islice

from epg.data.encoding import encode_image
from epg.data.manifest import SPLITS, Manifest, ShardInfo
from epg.data.pixels import PixelSums
from epg.data.settings import ImageSettings
from epg.data.shard_file import ShardFile
from epg.data.shard_note import ShardNote, note_key
from epg.data.shard_plan import PlannedShard, plan_shards
from epg.data.shares import Nobody, Others, in_turn, part_of
from epg.data.sources.base import BadImageError, Image, Item, Source
from epg.documents import DocumentError
from epg.errors import UserError, one_line, printable
from epg.store.base import ObjectNotFound, Store
from epg.store.reading import read_document

MANIFEST_NAME = "manifest.json"
_NAMED_BAD_IMAGES = 100
_COUNTED_AFTER_STOP = 5_000

Progress = Callable[[int, int, dict[str, float]], None]


def write_shards(
    source: Source,
    config: ImageSettings,
    seed: int,
    store: Store,
    prefix: str,
    on_progress: Progress | None = None,
    source_digest: str = "",
    others: Others | None = None,
) -> Manifest:
    """Write all shards and the manifest under `prefix` and return the manifest.

    A call that is repeated with the same arguments, because it was interrupted or a shard was lost,
    keeps the shards that are there, as it keeps those that `write_part` has written.

    Args:
        source: an opened source.
        config: the recipe's `data` section.
        seed: shuffles the samples once.
        store: the run's store.
        prefix: key of the folder that the shards go to; it must belong to this source, these
            settings and this seed alone.
        on_progress: called with (images done, images in all, {"skipped": n}).
        source_digest: of what the source holds; goes into the manifest.
        others: who writes shards of this set at the same time; default: nobody.

    Raises:
        UserError: too many bad images, a class without images, no space, an unusable store.
    """
    prefix = prefix.strip("/")
    shards = plan_shards(source, config, seed)
    writer = _Writer(source, config, store, on_progress, shards)

    def there() -> list[PlannedShard]:
        keys = {info.key for info in store.list(f"{prefix}/")}
        return [shard for shard in shards if note_key(shard.key(prefix)) in keys]

    notes: dict[PlannedShard, ShardNote] = {}
    counts: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    for shard in in_turn(shards, others or Nobody(), there):
        note = writer.reuse_or_write(shard.key(prefix), shard)
        # Added up at once: those of a thousand classes and shards are more than all else is here.
        counts[shard.split].update(note.class_counts)
        notes[shard] = replace(note, class_counts={})
    of_splits = {s: [notes[shard] for shard in shards if shard.split == s] for s in SPLITS}
    manifest = _manifest(source, config, of_splits, counts, source_digest)
    store.put_bytes(f"{prefix}/{MANIFEST_NAME}", manifest.to_json())
    return manifest


def write_part(
    source: Source,
    config: ImageSettings,
    seed: int,
    store: Store,
    prefix: str,
    part: int,
    parts: int,
    on_progress: Progress | None = None,
) -> None:
    """Write the shards of one of several parts, and a note beside each.

    Shards that are there already are kept, whoever wrote them. `write_shards` gathers the notes.

    Args:
        source: as for `write_shards`, and so on.
        config: likewise.
        seed: likewise.
        store: likewise.
        prefix: likewise.
        part: 0 to parts - 1.
        parts: into how many the set is divided.
        on_progress: likewise; counts the images of this part.

    Raises:
        UserError: too many bad images, no space, an unusable store.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts}")
    shards = part_of(plan_shards(source, config, seed), part, parts)
    writer = _Writer(source, config, store, on_progress, shards)
    for shard in shards:
        writer.reuse_or_write(shard.key(prefix.strip("/")), shard)


class _Writer:
    """Writes one shard after another, and counts what cannot be used."""

    def __init__(
        self,
        source: Source,
        config: ImageSettings,
        store: Store,
        on_progress: Progress | None,
        shards: list[PlannedShard],
    ) -> None:
        self._source, self._config, self._store = source, config, store
        self._unread = dict.fromkeys(shards)
        self._total, self._on_progress = sum(len(s.positions) for s in shards), on_progress
        self._done = 0
        self._bad: list[tuple[str, str, str]] = []

    def reuse_or_write(self, key: str, shard: PlannedShard) -> ShardNote:
        """Return what is known of a shard after making sure that it is in the store."""
        del self._unread[shard]
        part = self._reuse(key, shard)
        if part is None:
            part = self._write(key, shard)
        else:
            self._done += part.num_items
            for bad in part.skipped:
                self._count_bad(bad, ())
        self._report()
        return part

    def _reuse(self, key: str, shard: PlannedShard) -> ShardNote | None:
        """Return the note of a finished shard of this plan, or None where there is none.

        Raises:
            UserError: the store cannot be asked, which says nothing about the shard.
        """
        try:
            part = read_document(self._store, note_key(key), ShardNote.from_json)
        except (ObjectNotFound, DocumentError):
            return None  # not readable: the shard is written again
        if (part.num_items, part.plan) != (len(shard.positions), shard.digest()):
            return None
        return part if part.shard is None or self._there(part.shard) else None

    def _there(self, shard: ShardInfo) -> bool:
        indexed = not shard.index_size or self._store.size(shard.index_key) == shard.index_size
        return indexed and self._store.size(shard.key) == shard.size

    def _write(self, key: str, shard: PlannedShard) -> ShardNote:
        items = shard.items(self._source)
        part = ShardNote(len(items), plan=shard.digest())
        counts: Counter[int] = Counter()
        converted: Counter[str] = Counter()

        def samples() -> Generator[tuple[Item, Image], None, None]:
            with contextlib.closing(self._usable(items, part)) as usable:
                for item, image in usable:
                    yield item, encode_image(image, self._config)
                    counts[item.label] += 1
                    part.pixels.add(image)
                    converted.update(image.conversions)

        with contextlib.closing(samples()) as encoded:
            part.shard = ShardFile(self._store, key).write(encoded)
        part.class_counts, part.converted = dict(sorted(counts.items())), dict(converted)
        self._store.put_bytes(note_key(key), part.to_json())
        return part

    def _usable(
        self, items: list[Item], part: ShardNote
    ) -> Generator[tuple[Item, Image], None, None]:
        """Yield the usable images in order; note the others in `part`. Raises `UserError`."""
        with contextlib.closing(self._source.read(items)) as results:
            for item, result in results:
                self._done += 1
                if isinstance(result, BadImageError):
                    bad = (printable(item.name), result.reason, printable(str(result)))
                    part.skipped.append(bad)
                    self._count_bad(bad, results)
                else:
                    yield item, result
                if self._done % 64 == 0:
                    self._report()

    def _count_bad(
        self,
        bad: tuple[str, str, str],
        following: Iterable[tuple[Item, Image | BadImageError]],
    ) -> None:
        """Count a bad image. Raises `UserError` when there are too many, after a look further."""
        self._bad.append(bad)
        limit = self._config.max_bad_fraction
        if len(self._bad) <= limit * self._total:
            return
        # The advice must hold for the shards to come, too.
        later = chain.from_iterable(
            self._source.read(shard.items(self._source)) for shard in self._unread
        )
        for item, result in islice(chain(following, later), _COUNTED_AFTER_STOP):
            self._done += 1
            if isinstance(result, BadImageError):
                self._bad.append((printable(item.name), result.reason, printable(str(result))))
        shown = "; ".join(f"{name!r}: {detail}" for name, _, detail in self._bad[:3])
        more = f"; and {len(self._bad) - 3} more" if len(self._bad) > 3 else ""
        enough = math.ceil(100 * len(self._bad) / self._done) / 100
        if self._done < self._total:  # the rest may be a little worse
            enough = min(1.0, enough + 0.01)
        raise UserError(
            f"{self._source.spec}: {len(self._bad)} of the {self._done} images read (of "
            f"{self._total} in all) cannot be used, more than data.max_bad_fraction={limit:g} "
            f"allows ({one_line(shown)}{more}); mend or remove them, or skip them by "
            f"--set data.max_bad_fraction={enough:g}"
        )

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, {"skipped": float(len(self._bad))})


def _manifest(
    source: Source,
    config: ImageSettings,
    parts: dict[str, list[ShardNote]],
    of_labels: dict[str, Counter[int]],
    digest: str,
) -> Manifest:
    """Put the parts together. Raises `UserError` for a split or class without images."""
    labels = range(len(source.classes))
    counts = {split: [counted[label] for label in labels] for split, counted in of_labels.items()}
    for split in SPLITS:
        empty = [repr(n) for n, c in zip(source.classes, counts[split], strict=True) if not c]
        if empty:
            raise UserError(
                f"{source.spec}: no usable image in the {split} split for "
                f"{one_line(', '.join(empty[:3]))}{' and others' if len(empty) > 3 else ''}; "
                "add images or remove the class"
            )
    every = [part for of_split in parts.values() for part in of_split]
    skipped = [bad for part in every for bad in part.skipped]
    converted: Counter[str] = Counter()
    for part in every:
        converted.update(part.converted)
    seen = PixelSums.total(part.pixels for part in parts["train"])
    sides = seen.sides + PixelSums.total(part.pixels for part in parts["held-out"]).sides
    return Manifest(
        source=source.spec,
        image_size=config.image_size,
        channels=config.channels,
        classes=list(source.classes),
        splits={s: [p.shard for p in of_split if p.shard] for s, of_split in parts.items()},
        class_counts=counts,
        report={
            "converted": dict(sorted(converted.items())),
            "skipped": dict(sorted(Counter(reason for _, reason, _ in skipped).items())),
            "skipped_images": [f"{name}: {text}" for name, _, text in skipped[:_NAMED_BAD_IMAGES]],
            "ignored": source.ignored,
            "pixels": seen.statistics(),
            "sides": {str(side): n for side, n in sorted(sides.items())},
        },
        source_digest=digest,
        crop=config.crop,
        encoding=config.encoding,
    )

"""The data report of a set of shards, and where a manifest and its shards are found."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epg.data.manifest import SPLITS, Manifest
from epg.errors import UserError, printable
from epg.report.data_page import DataFacts, data_page
from epg.store import Store, open_store

PAGE_NAME = "data.html"
_CLASSES_SHOWN, _PER_CLASS = 12, 8


def open_manifest(place: str) -> tuple[Store, Manifest]:
    """Open a manifest by its path or URI; the store's keys are relative to the run.

    Args:
        place: of `manifest.json`, or the folder or URI of a run, whose newest shards are meant.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if place.endswith(".json"):
        folder, _, name = place.rpartition("/")
        store = open_store(folder or ".")
        manifest = Manifest.from_json(store.get_bytes(name))
        key = next(s.key for shards in manifest.splits.values() for s in shards)
        levels = posixpath.dirname(key).count("/") + 1
        root = _above(folder or ".", levels)
        return open_store(root), manifest
    store = open_store(place)
    try:
        record = json.loads(store.get_bytes("stages/shard.json"))
        key = record["outputs"]["manifest"]["key"]
        return store, Manifest.from_json(store.get_bytes(key))
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(
            f"{printable(place)}: no run with shards ({error}); give the path or URI of a "
            "manifest.json, or of a run"
        ) from None


def _above(folder: str, levels: int) -> str:
    """Return the folder or URI that lies so many levels above."""
    if "://" not in folder:
        path = Path(folder).expanduser().absolute()
        return str(path.parents[levels - 1])
    return "/".join(folder.rstrip("/").split("/")[:-levels])


def data_report(store: Store, manifest: Manifest) -> str:
    """Return the page of a set of shards. Raises `UserError` where they cannot be read."""
    from epg.data.inspection import some_samples, stored_sizes
    from epg.report.images import class_sheet

    count = len(manifest.classes)
    shown = sorted({round(i * (count - 1) / (_CLASSES_SHOWN - 1)) for i in range(_CLASSES_SHOWN)})
    samples = some_samples(store, manifest, shown, _PER_CLASS)
    sheets = [
        (manifest.classes[label], class_sheet(*samples, [label], per_class=_PER_CLASS))
        for label in shown
        if (samples.labels == label).any()
    ]
    sizes = stored_sizes(store, manifest)
    return data_page(_facts(manifest, sheets, [(f"{b.low:,}", b.images) for b in sizes]))


def inspected(store: Store, manifest: Manifest, out: Path) -> None:
    """Write the page, or its samples as one PNG, to a file. Raises `UserError`."""
    from epg.data.inspection import some_samples
    from epg.report.images import class_sheet

    if out.suffix == ".html":
        content = data_report(store, manifest).encode()
    elif out.suffix == ".png":
        labels = list(range(min(_CLASSES_SHOWN, len(manifest.classes))))
        samples = some_samples(store, manifest, labels, _PER_CLASS)
        content = class_sheet(*samples, labels, per_class=_PER_CLASS)
    else:
        raise UserError(f"--out {out}: end it in .html (the data report) or .png (samples)")
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None


def _facts(
    manifest: Manifest, sheets: list[tuple[str, bytes]], sizes: list[tuple[str, int]]
) -> DataFacts:
    report: Mapping[str, Any] = manifest.report
    return DataFacts(
        source=manifest.source,
        figures=figures(manifest),
        classes=manifest.classes,
        counts={split: manifest.class_counts[split] for split in SPLITS},
        rules=report.get("converted", {}),
        refused=report.get("skipped", {}),
        refused_images=report.get("skipped_images", []),
        ignored=report.get("ignored", {}),
        sides=[
            (f"{int(side):,} to {2 * int(side) - 1:,}" if int(side) else "unknown", n)
            for side, n in report.get("sides", {}).items()
        ],
        sizes=sizes,
        samples=sheets,
    )


def figures(manifest: Manifest) -> list[tuple[str, str]]:
    """Return names and values of what one wants to know first."""
    shards = [info for of_split in manifest.splits.values() for info in of_split]
    size, channels = manifest.image_size, manifest.channels
    found = [
        ("classes", f"{len(manifest.classes):,}"),
        *((f"{split} images", f"{manifest.num_samples(split):,}") for split in SPLITS),
        ("skipped", f"{sum(manifest.report.get('skipped', {}).values()):,}"),
        ("size", f"{size}×{size}, {channels} channel{'s' if channels > 1 else ''}"),
        ("encoding", manifest.encoding),
        ("shards", f"{len(shards):,}"),
        ("bytes", f"{sum(info.size for info in shards):,}"),
    ]
    pixels = manifest.report.get("pixels", {})
    found += [(name, ", ".join(f"{v:.4f}" for v in pixels[name])) for name in pixels]
    return found

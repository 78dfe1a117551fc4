"""`epg sample`: images from a registered model or a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from epg.errors import UserError, printable
from epg.registry import Registry
from epg.registry.base import averaged_file
from epg.store.files import explained, sweep_leftovers, write_atomically
from epg.store.scratch import scratch_folder
from epg.telemetry.progress import StageReporter

FORMATS = (".npz", ".png")
_BATCH = 256  # images at once
_GRID_COLUMNS = 32  # images of one class in a row of the grid


def sample(
    model: str,
    *,
    classes: list[str] | None,
    num: int,
    out: Path,
    registry: Registry,
    labels: str = "balanced",
    ema: float | None = None,
    seed: int = 0,
    **changes: Any,
) -> dict[str, float | int]:
    """Sample `num` images into a `.npz` or a `.png`.

    Args:
        model: path of a weights file or folder, or a registered `NAME` or `NAME:VERSION`.
        classes: class names, or indices where no name is a number; None means all.
        num: number of images.
        out: `.npz` (`arr_0` uint8 [N, H, W, C], `arr_1` labels) or `.png` (a grid, row by class).
        registry: where a bare name is looked up.
        labels: `balanced` (the classes by turns), `random` (uniform, of the seed), or the path of
            a text file with the index of each image's class in a line of its own.
        ema: rate of the moving average whose weights are taken; None: the one that was judged.
        seed: the same seed gives the same images.
        changes: of `SamplingConfig`, such as `steps`; None leaves what the weights' file says.

    Returns:
        `nfe`, `images_per_second` and `num_samples`.

    Raises:
        UserError: anything of it that cannot be.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: write to a file that ends in {' or '.join(FORMATS)}")
    if num < 1:
        raise UserError(f"--num {num}: ask for at least one image")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist")
    from epg.evaluation.generate import generate
    from epg.model.files import load_generator

    reporter = StageReporter("sample")
    with scratch_folder("sample") as scratch:
        loaded = load_generator(_locate(model, registry, scratch, ema))
        _check_average(model, loaded.metadata.get("ema_decay"), ema)
        samples = generate(
            loaded,
            wanted_labels(labels, class_indices(classes, loaded.classes), num, seed),
            seed=seed,
            batch_size=_BATCH,
            sampling=loaded.sampling.changed(**changes),
            on_progress=lambda done, total, values: reporter.progress(
                done, total, "images", **values
            ),
        )
        reporter.finished({})
    _write(out, samples.images, samples.labels)
    return {
        "nfe": samples.nfe,
        "images_per_second": samples.images_per_second,
        "num_samples": num,
    }


def wanted_labels(labels: str, chosen: list[int], num: int, seed: int) -> NDArray[np.int64]:
    """Return the class of each image, int64 [num]; see `sample`.

    Raises:
        UserError: neither a known order nor a file with one class of those chosen in each line.
    """
    if labels == "balanced":  # by turns: scores over splits need all of them in every split
        return np.resize(np.array(chosen, dtype=np.int64), num)
    if labels == "random":
        return np.random.default_rng(seed).choice(np.array(chosen, dtype=np.int64), num)
    path = Path(labels)
    if not path.is_file():
        raise UserError(f"--labels {labels}: use balanced, random, or a file with a class a line")
    with explained(path, "read"):
        words = path.read_text(encoding="utf-8", errors="replace").split()
    wrong = next((w for w in words if not w.isdecimal() or int(w[:9]) not in chosen), None)
    if wrong is not None or len(words) < num:
        raise UserError(
            f"{path}: {printable(wrong)[:40]!r} is no index of a class that is asked for"
            if wrong is not None
            else f"{path}: {len(words)} classes, but {num} images are asked for"
        )
    return np.array([int(word) for word in words[:num]], dtype=np.int64)


def class_indices(classes: list[str] | None, known: list[str]) -> list[int]:
    """Turn class names or indices into indices.

    Raises:
        UserError: an unknown one, or a number that may mean a name or an index.
    """
    if not classes:
        return list(range(len(known)))
    numbered = any(name.isdecimal() for name in known)
    indices = []
    for wanted in classes:
        if wanted in known:
            indices.append(known.index(wanted))
        elif wanted.isdecimal() and wanted.isascii() and len(wanted) < 10 and not numbered:
            indices.append(int(wanted))
        else:
            indices.append(-1)
        if not 0 <= indices[-1] < len(known):
            raise _no_such_class(wanted, known, numbered)
    return indices


def _no_such_class(wanted: str, known: list[str], numbered: bool) -> UserError:
    shown = ", ".join(map(printable, known[:20])) + (", ..." if len(known) > 20 else "")
    others = (
        "; its classes are called by numbers, so only names are taken"
        if numbered
        else f", or the indices 0 to {len(known) - 1}"
    )
    return UserError(f"class {wanted!r}: this model has {shown}{others}")


def _locate(model: str, registry: Registry, scratch: Path, ema: float | None) -> Path:
    """Return a local weights file for a path or a registered name."""
    path = Path(model)
    if path.exists() or "/" in model or model.endswith(".safetensors"):
        named = path / averaged_file(ema) if ema is not None and path.is_dir() else path
        return named if named.exists() else path
    if ema is not None and averaged_file(ema) in registry.resolve(model).files:
        return registry.fetch(model, scratch, averaged_file(ema))
    return registry.fetch(model, scratch)


def _check_average(model: str, found: Any, wanted: float | None) -> None:
    if wanted is not None and found != wanted:
        told = f"it holds the average at {found:g}" if isinstance(found, float) else "it names none"
        raise UserError(
            f"--ema {wanted:g}: {printable(model)} has no weights of that rate ({told}); train "
            "with a list in ema_decay to keep several"
        )


def _write(out: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write a whole file or none. Raises `UserError` for a full disk and the like."""

    def write(file: BinaryIO) -> None:
        if out.suffix == ".npz":
            np.savez(file, arr_0=images, arr_1=labels)
        else:
            from epg.evaluation.grid import class_grid

            most = int(np.unique(labels, return_counts=True)[1].max())
            file.write(class_grid(images, labels, per_class=min(most, _GRID_COLUMNS)))

    sweep_leftovers(out.parent)
    with explained(out, "write"):
        write_atomically(out, write)

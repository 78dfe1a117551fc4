"""`epg sample`: images from a registered model or a weights file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epg.errors import UserError, did_you_mean, printable
from epg.registry import Registry
from epg.registry.base import averaged_file
from epg.store.files import explained
from epg.store.scratch import scratch_folder
from epg.telemetry.progress import StageReporter

if TYPE_CHECKING:
    import torch

_DEVICES = ("cpu", "cuda")


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
    batch_size: int = 256,
    device: str | None = None,
    **changes: Any,
) -> dict[str, float | int]:
    """Sample `num` images into a `.npz`, a `.png` or a folder of PNGs.

    Args:
        model: path of a weights file or folder, or a registered `NAME` or `NAME:VERSION`.
        classes: class names, ImageNet's synsets where the model has them, or indices where no
            name is a number; None means all.
        num: number of images.
        out: `.npz` (`arr_0` uint8 [N, H, W, C], `arr_1` labels), `.png` (a grid, row by class), or
            a folder (a file per image, in a sub-folder per class).
        registry: where a bare name is looked up.
        labels: `balanced` (the classes by turns), `random` (uniform, of the seed), or the path of
            a text file with the index of each image's class in a line of its own.
        ema: rate of the moving average whose weights are taken; None: the one that was judged.
        seed: the same seed gives the same images.
        batch_size: images at once; it changes no image by more than rounding.
        device: `cpu` or `cuda`; default: cuda where there is one.
        changes: of `SamplingConfig`, such as `steps`; None leaves what the weights' file says.

    Returns:
        `nfe`, `images_per_second` and `num_samples`.

    Raises:
        UserError: anything of it that cannot be.
    """
    _check_place(out, num)
    from epg.evaluation.generate import GeneratedImages
    from epg.evaluation.saving import write_images
    from epg.model.files import load_generator

    reporter = StageReporter("sample")
    with scratch_folder("sample") as scratch:
        loaded = load_generator(_locate(model, registry, scratch, ema))
        _check_average(model, loaded.metadata.get("ema_decay"), ema)
        source = GeneratedImages(
            loaded,
            wanted_labels(labels, class_indices(classes, loaded.classes), num, seed),
            seed=seed,
            batch_size=batch_size,
            sampling=loaded.sampling.changed(**changes),
            device=_device(device),
        )

        def batches() -> Iterator[NDArray[np.uint8]]:
            for start in range(0, num, batch_size):
                end = min(start + batch_size, num)
                yield source.read(start, end).cpu().numpy()
                rate = source.images_per_second
                reporter.progress(end, num, "images", images_per_second=rate)

        data = loaded.recipe["data"]
        shape = (num, data["image_size"], data["image_size"], data["channels"])
        write_images(out, batches(), source.labels, shape)
        reporter.finished({})
    return {
        "nfe": source.nfe,
        "images_per_second": source.images_per_second,
        "num_samples": num,
    }


def wanted_labels(labels: str, chosen: list[int], num: int, seed: int) -> NDArray[np.int64]:
    """Return the class of each image, int64 [num]; see `sample`.

    Raises:
        UserError: neither a known order nor a file with one class of those chosen in each line.
    """
    if labels in ("balanced", "random"):
        from epg.evaluation.labels import drawn_labels

        return np.array(chosen, dtype=np.int64)[drawn_labels(labels, num, len(chosen), seed)]
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


def _check_place(out: Path, num: int) -> None:
    """Refuse what cannot be written to, before anything is generated."""
    from epg.evaluation.saving import FORMATS

    if out.suffix and out.suffix not in FORMATS and not out.is_dir():
        raise UserError(
            f"{out}: write to a file that ends in {' or '.join(FORMATS)}, or to a folder"
        )
    if num < 1:
        raise UserError(f"--num {num}: ask for at least one image")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: the folder is not empty: choose another, or empty it")


def _device(name: str | None) -> torch.device:
    import torch

    from epg.model.device import prepare_device

    if name is not None and name not in _DEVICES:
        raise UserError(f"--device {name}: use {' or '.join(_DEVICES)}")
    best = prepare_device()
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device that torch can use")
    return best if name is None else torch.device(name)


def class_indices(classes: list[str] | None, known: list[str]) -> list[int]:
    """Turn class names or indices into indices.

    Raises:
        UserError: an unknown one, or a number that may mean a name or an index.
    """
    if not classes:
        return list(range(len(known)))
    numbered = any(name.isdecimal() for name in known)
    aliases = None if numbered else _aliases(known)
    indices = []
    for wanted in classes:
        if wanted in known:
            indices.append(known.index(wanted))
        elif wanted.isdecimal() and wanted.isascii() and len(wanted) < 10 and not numbered:
            indices.append(int(wanted))
        else:
            indices.append((aliases or {}).get(wanted.casefold(), -1))
        if not 0 <= indices[-1] < len(known):
            raise _no_such_class(wanted, known, numbered)
    return indices


def _aliases(known: list[str]) -> dict[str, int]:
    """Return other words for ImageNet's classes, where a model has them -> their index.

    Its synsets, and every word of a class that no other class has.
    """
    from epg.data.sources.imagenet_classes import lemmas, short_names

    table = lemmas()
    of_synset = dict(zip(table, short_names(list(table)), strict=True))
    places = {name: index for index, name in enumerate(known)}
    found: dict[str, int] = {}
    words: dict[str, set[int]] = {}
    for synset, said in table.items():
        index = places.get(synset, places.get(of_synset[synset]))
        if index is None:
            continue
        found[synset] = index
        for word in said.split(","):
            words.setdefault(word.strip().casefold(), set()).add(index)
    return found | {word: next(iter(own)) for word, own in words.items() if len(own) == 1}


def _no_such_class(wanted: str, known: list[str], numbered: bool) -> UserError:
    hint = did_you_mean(wanted, known)
    shown = ", ".join(map(printable, known[:20])) + (", ..." if len(known) > 20 else "")
    others = (
        "; its classes are called by numbers, so only names are taken"
        if numbered
        else f", or the indices 0 to {len(known) - 1}"
    )
    return UserError(f"class {wanted!r}{hint}: this model has {shown}{others}")


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

"""A reference that others made: ADM's statistics file, an `.npz` of images, or a folder of images.

Shapes: `D` feature width, `S` width of the spatial features.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epg.data.arrays import read_npy_stream
from epg.errors import UserError, one_line
from epg.evaluation.features.base import NETWORK, FeatureNetwork, Statistics
from epg.evaluation.metrics.moments import Moments
from epg.evaluation.sources import (
    Images,
    NpzImages,
    content_digest,
    open_images,
    size_in_words,
)
from epg.protocol import Reference
from epg.store.digest import file_sha256

#: Arrays of ADM's files: mean and covariance of the pooled and of the spatial features.
_POOLED, _SPATIAL = ("mu", "sigma"), ("mu_s", "sigma_s")
_MAX_BYTES = 1024**3

#: Looks at images by all networks: name in the recipe -> what it sees.
Describe = Callable[[Images], Mapping[str, Statistics]]


@dataclass(frozen=True)
class FileReference:
    """What networks see in it, by their names in the recipe, and how a protocol calls it."""

    statistics: dict[str, Statistics]
    reference: Reference


def read_reference(
    path: Path,
    networks: Mapping[str, FeatureNetwork],
    shape: tuple[int, int, int],
    describe: Describe,
    *,
    device: torch.device | str = "cpu",
) -> FileReference:
    """Read a reference file or folder.

    Args:
        path: it.
        networks: name in the recipe -> who looks; ADM's statistics are Inception's alone.
        shape: height, width and channels of the images that are compared with it.
        describe: looks at its images, where it has any.
        device: where the networks lie.

    Raises:
        UserError: it is none, of another resolution, or of another network; ADM's files do not
            name theirs, so of them only the width is known.
    """
    if _is_ours(path):
        return _ours(path, networks)
    statistics = _adm_statistics(path)
    images = _images(path, device, needed=not statistics)
    if images is not None and images.shape != shape:
        raise UserError(
            f"{path}: a reference of {size_in_words(images.shape)}, for images of "
            f"{size_in_words(shape)}: features of another resolution say nothing; take one of the "
            "same"
        )
    found: dict[str, Statistics] = {}
    if images is not None:
        found = dict(describe(images))
    if statistics:
        return _with_statistics(path, statistics, found, networks)
    assert images is not None
    digest = content_digest(images)
    return FileReference(found, Reference("file", len(images.labels), digest, path.name))


def _with_statistics(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    found: dict[str, Statistics],
    networks: Mapping[str, FeatureNetwork],
) -> FileReference:
    """Take moments from the file, features from the images that travel with them."""
    others = sorted(set(networks) - {"inception"})
    if others:
        raise UserError(
            f"{path}: its statistics are Inception's alone, and {', '.join(others)} is asked for "
            "as well: compare it with images, or leave it out"
        )
    mean, covariance = arrays["mu"], arrays["sigma"]
    own = found.get("inception")
    width = networks["inception"].width
    if len(mean) != width:
        raise UserError(
            f"{path}: statistics of {len(mean):,} features, where Inception has {width:,}: they "
            "are of another network"
        )
    spatial = None
    if "mu_s" in arrays:
        spatial = Moments(arrays["mu_s"], arrays["sigma_s"], 0)
    features = np.zeros((0, width), np.float32) if own is None else own.features
    statistics = Statistics(Moments(mean, covariance, 0), spatial, features)
    reference = Reference("file", 0, file_sha256(path), path.name, network_assumed=True)
    return FileReference({"inception": statistics}, reference)


def _is_ours(path: Path) -> bool:
    """Return whether a file is one of our own statistics, which say whose features they are."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return f"{NETWORK}.npy" in archive.namelist()


def _ours(path: Path, networks: Mapping[str, FeatureNetwork]) -> FileReference:
    """Take our own statistics of one network."""
    if len(networks) > 1:
        raise UserError(
            f"{path}: statistics of one network, and {', '.join(networks)} are asked for: compare "
            "with images, or name one"
        )
    ((kind, network),) = networks.items()
    statistics = Statistics.from_npz(path, network)
    reference = Reference("file", statistics.moments.count, file_sha256(path), path.name)
    return FileReference({kind: statistics}, reference)


def _adm_statistics(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the statistics of ADM's file; nothing where it holds none. Raises `UserError`."""
    if path.is_dir():
        return {}
    found: dict[str, NDArray[np.float64]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            for name in (*_POOLED, *_SPATIAL):
                if name in members:
                    with archive.open(members[name]) as stream:
                        found[name] = read_npy_stream(stream, _MAX_BYTES).astype(np.float64)
        for pair in (_POOLED, _SPATIAL):
            _check_pair(found, *pair)
        if found and "mu" not in found:
            raise ValueError("it has spatial statistics, and no mu and sigma")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder") from None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: no reference ({one_line(error)}): ADM's file holds mu, sigma, mu_s, sigma_s "
            "and arr_0; images do as well"
        ) from error
    return found


def _check_pair(found: Mapping[str, NDArray[np.float64]], mean: str, covariance: str) -> None:
    if (mean in found) != (covariance in found):
        raise ValueError(f"{mean} and {covariance} go together")
    if mean not in found:
        return
    m, c = found[mean], found[covariance]
    if m.ndim != 1 or c.shape != (len(m), len(m)):
        raise ValueError(f"{mean} and {covariance} have the shapes {m.shape} and {c.shape}")
    if not (np.isfinite(m).all() and np.isfinite(c).all()):
        raise ValueError(f"{mean} or {covariance} has numbers that are not finite")
    if not np.allclose(c, c.T, rtol=1e-6, atol=1e-9) or (np.diag(c) < 0).any():
        raise ValueError(f"{covariance} is no covariance: it is not symmetric, or below zero")


def _images(path: Path, device: torch.device | str, *, needed: bool) -> Images | None:
    """Open the images of a reference; ADM's files may go without them."""
    if not needed:
        with zipfile.ZipFile(path) as archive:
            if "arr_0.npy" not in archive.namelist():
                return None
        return NpzImages(path, device)
    return open_images(path, device)

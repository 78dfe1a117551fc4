"""Weights of published feature networks: where each file is from, and where it lies on this site.

A published file is turned once, by `epg weights`, into a safetensors file of ours that says what
it was made of; nothing else is read at run time, and nothing is ever unpickled then. Light to
import: whether a file is there is asked before anything long starts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from epg.errors import UserError
from epg.store import Store, open_store

#: Name in a recipe -> width of the network's pooled features.
WIDTHS = {"classifier": 64, "inception": 2048, "dinov2": 768}
KIND = "feature-network"  # in the header of a file
FOLDER = "weights"  # in a store's root, beside runs and registry


@dataclass(frozen=True)
class PublishedWeights:
    """One published weight file.

    Attributes:
        kind: name in `evaluate.networks`.
        space: name of the feature space, as reports give it.
        url: where it is published.
        sha256: of the published file; empty where its publisher gives none: `epg weights` then
            takes it from whoever downloads it.
        variable: environment variable that names the converted file.
        for_what: what a recipe asks for that needs it.
    """

    kind: str
    space: str
    url: str
    sha256: str
    variable: str
    for_what: str

    @property
    def file(self) -> str:
        """Name of the converted file."""
        return f"{self.space}.safetensors"

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        return (
            f"`epg weights {self.kind}` fetches it; on a site without internet bring {self.url} "
            f"there and {self.by_hand}"
        )

    @property
    def by_hand(self) -> str:
        """What to do with a file that was fetched elsewhere."""
        return (
            f"run `epg weights {self.kind} --from FILE` (`--store URI`: into the store "
            f"of the runs, for a cluster); {self.variable} names a converted file elsewhere"
        )


#: Name in a recipe -> its file. pytorch-fid publishes the first as
#: pt_inception-2015-12-05-6726825d.pth.
WEIGHTS: dict[str, PublishedWeights] = {
    weights.kind: weights
    for weights in (
        PublishedWeights(
            "inception",
            "inception-2015-12-05",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            "EPG_INCEPTION_WEIGHTS",
            "FID",
        ),
        PublishedWeights(
            "dinov2",
            "dinov2-vit-b-14-224",
            "https://huggingface.co/timm/vit_base_patch14_dinov2.lvd142m/resolve/main/"
            "model.safetensors",
            "",
            "EPG_DINOV2_WEIGHTS",
            "distance in DINOv2's features",
        ),
    )
}


@dataclass(frozen=True)
class Found:
    """A converted file: a local one, or an object of a store."""

    weights: PublishedWeights
    path: Path | None = None
    store: Store | None = None

    def local(self, scratch: Path) -> Path:
        """Return it as a local file, copied into `scratch` where it lies in a store."""
        if self.path is not None:
            return self.path
        assert self.store is not None
        path = scratch / self.weights.file
        self.store.get_file(f"{FOLDER}/{self.weights.file}", path)
        return path


def cache_folder() -> Path:
    """Where `epg weights` puts files on one machine."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(home) if home else Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as containers have
        folder = Path(tempfile.gettempdir())
    return folder / "epg" / FOLDER


def find_weights(
    kind: str, root: Store | str | None = None, environment: Mapping[str, str] | None = None
) -> Found:
    """Return where the converted file of a network lies.

    Looked for in this order: what the environment names; the store of the runs; the cache folder.

    Args:
        kind: name in `evaluate.networks`.
        root: root of the store of the runs, or its URI.
        environment: default: the process's.

    Raises:
        UserError: it is nowhere; the line says how to get it.
    """
    weights = WEIGHTS[kind]
    given = (os.environ if environment is None else environment).get(weights.variable, "")
    if given:
        return Found(weights, path=_given(weights, Path(given).expanduser()))
    store = open_store(root) if isinstance(root, str) else root
    if store is not None and store.size(f"{FOLDER}/{weights.file}") is not None:
        return Found(weights, store=store)
    cached = cache_folder() / weights.file
    if cached.is_file():
        return Found(weights, path=cached)
    raise UserError(
        f"{weights.file} is not here, and without it there is no {weights.for_what}: "
        f"{weights.remedy}"
    )


def require_weights(
    kinds: Iterable[str],
    root: Store | str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Refuse networks whose files are nowhere. Raises `UserError` as `find_weights`."""
    for kind in kinds:
        if kind in WEIGHTS:
            find_weights(kind, root, environment)


def _given(weights: PublishedWeights, path: Path) -> Path:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{weights.variable} is {path}: cannot read it ({reason}): {weights.remedy}"
        ) from error
    if path.suffix != ".safetensors":
        raise UserError(
            f"{weights.variable} is {path}: no converted file, only safetensors are read at run "
            f"time: `epg weights {weights.kind} --from {path}` converts it"
        )
    return path

"""From a published weight file to the one that is read at run time: checked, then converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from epg.documents import DocumentError
from epg.errors import UserError, one_line
from epg.evaluation.features.weights import KIND, PublishedWeights
from epg.model.files import check_fit, save_weights
from epg.store.digest import file_sha256


def convert(weights: PublishedWeights, published: Path, target: Path, sha256: str = "") -> str:
    """Write the converted file of a published one; return the digest of the published one.

    Args:
        weights: what it must be.
        published: a local copy of it.
        target: where the converted file goes.
        sha256: digest that is asked for; default: the one that is known.

    Raises:
        UserError: it is another file, or none of these weights.
    """
    found = file_sha256(published)
    wanted = sha256 or weights.sha256
    if wanted and found != wanted:
        raise UserError(
            f"{published}: SHA-256 is {found}, expected {wanted}: it is cut, altered or another "
            f"file: take {weights.url} again"
        )
    tensors = _read(weights, published)
    save_weights(target, tensors, {"kind": KIND, "name": weights.space, "made_of": found})
    return found


def _read(weights: PublishedWeights, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a published file that fit the network, by its names."""
    state = _tensors(weights, path)
    with torch.device("meta"):
        network = _network(weights.kind)
    # Counters of batches that batch normalisation has seen: files of old torch have none.
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    for name in counters:
        state.setdefault(name, torch.zeros((), dtype=torch.long))
    try:
        check_fit(network, state)
    except DocumentError as error:
        raise UserError(
            f"{path}: no weights of {weights.space} ({error}): take {weights.url} again"
        ) from error
    return {name: tensor for name, tensor in state.items() if name not in counters}


def _tensors(weights: PublishedWeights, path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle may end in anything
        reason = one_line(error)[:120]
        raise UserError(f"{path}: no weight file ({reason}): take {weights.url} again") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: holds other things than tensors: take {weights.url} again")
    return dict(state)


def _network(kind: str) -> nn.Module:
    if kind == "inception":
        from epg.evaluation.features.inception import FidInception

        return FidInception()
    from epg.evaluation.features.dinov2 import published_body

    return published_body()

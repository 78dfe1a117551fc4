"""Reading the weights of a published network, in the form that `epg weights` gave them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from epg.errors import UserError
from epg.evaluation.features.weights import KIND, PublishedWeights
from epg.model.files import load_weights


def load_converted(weights: PublishedWeights, path: Path) -> dict[str, Tensor]:
    """Read a converted file. Raises `UserError` for any other, and for one that was altered."""
    tensors, header = load_weights(path, KIND)
    if header.get("name") != weights.space:
        raise UserError(
            f"{path}: weights of {str(header.get('name'))[:40]!r}, expected {weights.space!r}: "
            f"{weights.remedy}"
        )
    if weights.sha256 and header.get("made_of") != weights.sha256:
        raise UserError(
            f"{path}: made of a file with SHA-256 {str(header.get('made_of'))[:12]}..., expected "
            f"{weights.sha256[:12]}...: {weights.remedy}"
        )
    return tensors

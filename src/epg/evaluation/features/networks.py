"""The one table of feature networks: name in a recipe's `evaluate.networks` -> who opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from epg.evaluation.features.base import FeatureNetwork


def _classifier(weights: Path | None, device: torch.device) -> FeatureNetwork:
    from epg.evaluation.features.classifier import load_classifier

    assert weights is not None
    return load_classifier(weights, device)


def _inception(weights: Path | None, device: torch.device) -> FeatureNetwork:
    from epg.evaluation.features.inception import load_inception

    del weights  # published ones, which `EPG_INCEPTION_WEIGHTS` names
    return load_inception(device)


NETWORKS: dict[str, Callable[[Path | None, torch.device], FeatureNetwork]] = {
    "classifier": _classifier,
    "inception": _inception,
}


def open_networks(
    kinds: Iterable[str], classifier: Path | None, device: torch.device
) -> dict[str, FeatureNetwork]:
    """Return feature networks by their names in a recipe, in its order; see `open_network`."""
    return {kind: open_network(kind, classifier, device) for kind in kinds}


def open_network(kind: str, classifier: Path | None, device: torch.device) -> FeatureNetwork:
    """Return a feature network, ready to look at images on a device.

    Args:
        kind: a name of `evaluate.networks`.
        classifier: weights of the run's own classifier, where it has one.
        device: where it shall lie.
    """
    return NETWORKS[kind](classifier, device)

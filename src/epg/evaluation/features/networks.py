"""The one table of feature networks: name in a recipe's `evaluate.networks` -> who opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from epg.evaluation.features.base import FeatureNetwork
from epg.evaluation.features.weights import WEIGHTS, find_weights
from epg.store import Store


def _classifier(weights: Path, device: torch.device) -> FeatureNetwork:
    from epg.evaluation.features.classifier import load_classifier

    return load_classifier(weights, device)


def _inception(weights: Path, device: torch.device) -> FeatureNetwork:
    from epg.evaluation.features.inception import load_inception

    return load_inception(weights, device)


def _dinov2(weights: Path, device: torch.device) -> FeatureNetwork:
    from epg.evaluation.features.dinov2 import load_dinov2

    return load_dinov2(weights, device)


NETWORKS: dict[str, Callable[[Path, torch.device], FeatureNetwork]] = {
    "classifier": _classifier,
    "inception": _inception,
    "dinov2": _dinov2,
}


def open_networks(
    kinds: Iterable[str],
    classifier: Path | None,
    device: torch.device,
    *,
    root: Store | str | None,
    scratch: Path,
) -> dict[str, FeatureNetwork]:
    """Return feature networks by their names in a recipe, in its order.

    Args:
        kinds: names of `evaluate.networks`.
        classifier: weights of the run's own classifier, where it has one.
        device: where they shall lie.
        root: root of the store of the runs, where published weights may lie.
        scratch: local folder for copies of them.

    Raises:
        UserError: published weights are missing or altered.
    """
    found = {}
    for kind in kinds:
        if kind in WEIGHTS:
            path = find_weights(kind, root).local(scratch)
        else:
            assert classifier is not None
            path = classifier
        found[kind] = NETWORKS[kind](path, device)
    return found

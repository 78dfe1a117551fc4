"""What a feature network is, what it sees in a set of images, and how that lies on disk.

Shapes: `N` images, `D` feature width, `S` width of the spatial features, `K` classes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from epg.data.arrays import read_npz
from epg.documents import DocumentError, fields, parse_object
from epg.errors import UserError
from epg.evaluation.metrics.inception_score import ScoreSums
from epg.evaluation.metrics.moments import Moments
from epg.text import printable

#: Array of a file of statistics that says whose features they are.
NETWORK = "network"
_MAX_BYTES = 4 * 1024**3  # Inception: 33 MB of covariances, 8 kB an image


class Features(NamedTuple):
    """What a network says of N images.

    Attributes:
        pool: penultimate features [N, D]: Fréchet distance, precision and recall.
        logits: [N, K]; Inception's are without the bias, for the inception score. None where a
            network knows no classes.
        spatial: features with places [N, S], for sFID; None where a network has none.
    """

    pool: Tensor
    logits: Tensor | None
    spatial: Tensor | None = None


@dataclass(frozen=True)
class Statistics:
    """A set of images in a network's features, as far as others are compared with it.

    Attributes:
        moments: mean and covariance of `pool`, over all images.
        spatial: the same of the spatial features, or None.
        features: `pool` of the first images, float32 [≤ N, D], for precision and recall.
    """

    moments: Moments
    spatial: Moments | None
    features: NDArray[np.float32]

    def to_npz(self, network: FeatureNetwork) -> bytes:
        """Pack: `mu` and `sigma` (float64), `count`, `features`, and `mu_s` and `sigma_s`.

        `network` says whose features they are: JSON as uint8, because only numbers are read back.
        """
        arrays: dict[str, NDArray[Any]] = {
            "mu": self.moments.mean,
            "sigma": self.moments.covariance,
            "count": np.array(self.moments.count),
            "features": self.features,
            NETWORK: np.frombuffer(json.dumps(_identity(network)).encode(), np.uint8),
        }
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, path: Path, network: FeatureNetwork, called: str = "") -> Statistics:
        """Read what `to_npz` packed.

        Args:
            path: the file.
            network: whose features are compared with them; of a file that names none, as earlier
                versions wrote, only the width can be told.
            called: what the file is called where that is not its path.

        Raises:
            UserError: it is no such file, or of another network.
        """
        try:
            arrays = read_npz(path, _MAX_BYTES)
            _check_network(arrays, network)
            return cls._of(arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{called or path}: no reference statistics for {network.name} ({error}): make "
                "them again with `epg reference-statistics`"
            ) from error

    @classmethod
    def _of(cls, arrays: dict[str, NDArray[Any]]) -> Statistics:
        count, features = int(arrays["count"]), arrays["features"]
        width = features.shape[-1]
        for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
            if mean in arrays:
                side = width if mean == "mu" else len(arrays[mean])
                shapes = (arrays[mean].shape, arrays[covariance].shape)
                if shapes != ((side,), (side, side)):
                    raise ValueError(
                        f"{mean} and {covariance} are {shapes}, for features of {side}"
                    )
        if features.ndim != 2 or (len(features) > count > 0):
            raise ValueError(f"features of shape {features.shape} for {count} images")
        kept = features if len(features) == count else None
        spatial = None
        if "mu_s" in arrays:
            spatial = Moments(arrays["mu_s"], arrays["sigma_s"], count)
        return cls(Moments(arrays["mu"], arrays["sigma"], count, kept), spatial, features)


def _identity(network: FeatureNetwork) -> dict[str, str]:
    return {
        "name": network.name,
        "weights": network.weights_digest,
        "preprocessing": network.preprocessing,
    }


def _check_network(arrays: Mapping[str, NDArray[Any]], network: FeatureNetwork) -> None:
    """Raise `ValueError` where the statistics are known to be of another network."""
    width = len(arrays["mu"])
    if width != network.width:
        raise ValueError(f"of {width:,} features, where it has {network.width:,}")
    if NETWORK not in arrays:
        return
    wanted = _identity(network)
    try:
        said = fields(parse_object(arrays[NETWORK].tobytes()), dict.fromkeys(wanted, str))
    except DocumentError as error:
        raise ValueError(f"what it says of its network cannot be read: {error}") from error
    for key, value in wanted.items():
        if said[key] != value:
            raise ValueError(f"of another network: {key} {_short(said[key])}, not {_short(value)}")


def _short(text: str) -> str:
    return printable(text if len(text) < 60 else f"{text[:12]}...")


@dataclass(frozen=True)
class Description(Statistics):
    """Statistics of a set of images, and what the network reads in each.

    Attributes:
        predicted: class with the highest logit, int64 [N]; -1 where a network knows none.
        confidence: log-probability of the class that an image was asked for or is of, float32
            [N]; NaN where the network has no such class.
        splits: what the inception score is made of.
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    splits: Mapping[int, ScoreSums]


class Figures(NamedTuple):
    """What a network finds: numbers by the name of their figure, and what else it has to say."""

    metrics: dict[str, float]
    details: dict[str, Any]


class FeatureNetwork(Protocol):
    """A network that looks at images, and the figures that are taken in its features.

    Precision and recall can be taken in any network's features, and belong to none.

    Attributes:
        figures: names of all the figures that it gives, here and in `quality`.
        weights_digest: SHA-256 over its tensors: features of other weights are others.
    """

    figures: tuple[str, ...]
    weights_digest: str

    @property
    def name(self) -> str:
        """Name of its feature space, as reports give it: `digits-cnn`."""
        ...

    @property
    def preprocessing(self) -> str:
        """How images become its input, in words."""
        ...

    @property
    def width(self) -> int:
        """D, width of its pooled features."""
        ...

    def describe(self, images: Tensor) -> Features:
        """uint8 images [N, H, W, C] on its device -> features."""
        ...

    def quality(self, real: Description, labels: NDArray[np.int64]) -> dict[str, float]:
        """Return figures of the network itself, from real images of the classes [N]."""
        ...

    def compare(self, real: Statistics, found: Description, labels: NDArray[np.int64]) -> Figures:
        """Return figures of generated images that were asked to be of the classes [N]."""
        ...

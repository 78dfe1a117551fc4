"""A small classifier, trained on the training split, whose features judge generated images.

It stands in for Inception where that says nothing (8×8 digits, grey images). It is named for
what it is: `digits-cnn`, `folder-cnn`.

Shapes: `N` batch, `C` channels, `H W` pixels, `K` classes, `D` feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from epg.documents import Kind, fields
from epg.errors import UserError, one_line
from epg.evaluation.features.base import Description, Features, Figures, Statistics
from epg.evaluation.features.weights import WIDTHS
from epg.evaluation.judge import agreement
from epg.evaluation.metrics.frechet import frechet_distance
from epg.model.files import check_fit, load_weights, save_weights, tensors_digest

KIND = "classifier"
_SHAPE: dict[str, Kind] = {
    "name": str,
    "image_size": int,
    "channels": int,
    "num_classes": int,
    "mean": list,
    "std": list,
    "width": int,
    "feature_dim": int,
}
_LEARNING_RATE = 4e-3
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class ClassifierShape:
    """Everything needed to build the network again; JSON in the weight file's header."""

    name: str
    image_size: int
    channels: int
    num_classes: int
    mean: list[float]
    std: list[float]
    width: int = 32
    feature_dim: int = WIDTHS["classifier"]

    @property
    def depth(self) -> int:
        """Number of stages: the last one sees at least 4 pixels a side, where there are as many."""
        return max(0, math.floor(math.log2(self.image_size / 4))) + 1


def classifier_name(source: str) -> str:
    """Return the feature space's name: `digits` -> `digits-cnn`, `folder:PATH` -> `folder-cnn`."""
    return f"{source.partition(':')[0]}-cnn"


class Classifier(nn.Module):
    """3×3 convolutions, halving the image between stages, then a global mean and one layer."""

    figures: tuple[str, ...] = (
        "frechet_distance",
        "class_agreement",
        "classifier_held_out_accuracy",
    )
    weights_digest = ""
    mean: Tensor
    std: Tensor

    def __init__(self, shape: ClassifierShape) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        inputs = shape.channels
        for stage in range(shape.depth):
            last = stage == shape.depth - 1
            outputs = shape.feature_dim if last else shape.width
            layers += [*_convolution(inputs, outputs), *_convolution(outputs, outputs)]
            if not last:
                layers.append(nn.MaxPool2d(2))
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(shape.feature_dim, shape.num_classes)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(shape, name), dtype=torch.float32)
            self.register_buffer(name, values.reshape(1, -1, 1, 1), persistent=False)

    @property
    def name(self) -> str:
        """Name of the feature space."""
        return self.shape.name

    @property
    def width(self) -> int:
        """D, width of the features."""
        return self.shape.feature_dim

    @property
    def preprocessing(self) -> str:
        """How images become its input."""
        shape = self.shape
        return f"{shape.image_size} pixels, minus {shape.mean}, divided by {shape.std}"

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, C] -> normalised float32 [N, C, H, W]."""
        x = images.permute(0, 3, 1, 2).float() / 255.0
        return (x - self.mean) / self.std

    def features(self, x: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> features [N, D]."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> logits [N, K]."""
        return self.head(self.features(x))

    def describe(self, images: Tensor) -> Features:
        """uint8 images [N, H, W, C] -> features [N, D] and logits [N, K]."""
        features = self.features(self.prepare(images))
        return Features(features, self.head(features))

    def quality(self, real: Description, labels: NDArray[np.int64]) -> dict[str, float]:
        """Return its accuracy on real images: no generator can be judged better than its judge."""
        return {"classifier_held_out_accuracy": float((real.predicted == labels).mean())}

    def compare(self, real: Statistics, found: Description, labels: NDArray[np.int64]) -> Figures:
        """Return the distance of the two sets, and the classes seen against those asked for."""
        seen = agreement(found.predicted, labels, self.shape.num_classes)
        distance = frechet_distance(real.moments, found.moments)
        return Figures(
            {"frechet_distance": distance, "class_agreement": seen.overall},
            {"class_agreement_by_class": seen.by_class},
        )


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.GELU()]


def shift(x: Tensor, amount: int, generator: torch.Generator) -> Tensor:
    """Move every image [N, C, H, W] by up to `amount` pixels; border pixels are repeated."""
    n, _, height, width = x.shape
    offsets = torch.randint(-amount, amount + 1, (2, n, 1), generator=generator).to(x.device)
    rows = (torch.arange(height, device=x.device) + offsets[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + offsets[1]).clamp(0, width - 1)
    index = torch.arange(n, device=x.device)[:, None, None]
    # Indices around the channel axis put it last: [N, H, W, C].
    return x[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images [N, C, H, W], chosen at random."""
    chosen = torch.rand(len(x), generator=generator).to(x.device) < 0.5
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def train_classifier(
    shape: ClassifierShape,
    batches: Iterable[tuple[Any, ...]],
    steps: int,
    *,
    seed: int,
    horizontal_flip: bool = False,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Classifier:
    """Train from `steps` batches of (uint8 [N, H, W, C], int64 [N], ...); same seed, same weights.

    AdamW, a tenth of the steps as warm-up, then a cosine; shifts by up to a twelfth of the image
    (at least a pixel), flips where left and right mean the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's layers initialise themselves from the global generator
        model = Classifier(shape)
    model.to(device).train()
    generator = torch.Generator().manual_seed(seed)
    amount = max(1, round(shape.image_size / 12))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    source: Iterator[tuple[Any, ...]] = iter(batches)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * _schedule(step, steps)
        images, labels = next(source)[:2]
        x = shift(model.prepare(torch.tensor(images, device=device)), amount, generator)
        if horizontal_flip:
            x = flip(x, generator)
        loss = F.cross_entropy(model(x), torch.tensor(labels, device=device), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if on_progress is not None and (step % 10 == 9 or step == steps - 1):
            on_progress(step + 1, steps, {"loss": loss.item()})
    return model.eval()


def _schedule(step: int, steps: int) -> float:
    warmup = max(1, steps // 10)
    decay = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min((step + 1) / warmup, decay)


def save_classifier(path: Path, model: Classifier) -> None:
    """Write weights as safetensors, with the shape as JSON in the header."""
    metadata = {"kind": KIND, "shape": asdict(model.shape)}
    save_weights(path, model.state_dict(), metadata)


def load_classifier(path: Path, device: torch.device | str = "cpu") -> Classifier:
    """Read what `save_classifier` wrote. Raises `UserError` for anything else."""
    tensors, metadata = load_weights(path, KIND)
    try:
        shape = ClassifierShape(**fields(metadata.get("shape"), _SHAPE))
        with torch.device("meta"):  # without memory: what a header asks for may be anything
            check_fit(Classifier(shape), tensors)
        model = Classifier(shape)
        model.load_state_dict(tensors)
        model.weights_digest = tensors_digest(tensors)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = one_line(error)
        raise UserError(f"{path}: weights do not fit their own header: {reason}") from error
    return model.to(device).eval()

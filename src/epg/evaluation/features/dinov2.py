"""DINOv2's ViT-B/14 through timm: a Fréchet distance that no class labels have shaped.

Shapes: `N` batch, `H W` pixels, `D` = 768.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from epg.evaluation.features.base import Description, Features, Figures, Statistics
from epg.evaluation.features.converted import load_converted
from epg.evaluation.features.weights import WEIGHTS, WIDTHS
from epg.evaluation.metrics.frechet import frechet_distance
from epg.model.files import tensors_digest

MODEL = "vit_base_patch14_dinov2"
PUBLISHED_SIZE = 518
INPUT_SIZE = 224  # as in comparisons of generative models; 16 × 16 patches
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def published_body(size: int = PUBLISHED_SIZE) -> nn.Module:
    """Return timm's network without a head, for images of `size` pixels."""
    return timm.create_model(MODEL, pretrained=False, num_classes=0, img_size=size)


class DinoV2(nn.Module):
    """The normalised class token of a self-supervised network as features [N, 768]."""

    name = WEIGHTS["dinov2"].space
    width = WIDTHS["dinov2"]
    figures: tuple[str, ...] = ("frechet_distance_dinov2",)
    weights_digest = ""
    preprocessing = f"antialiased bicubic resize to {INPUT_SIZE} pixels, ImageNet's normalisation"
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = published_body(INPUT_SIZE)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            column = torch.tensor(values).reshape(1, 3, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] (grey ones: [N, H, W, 1]) -> normalised float32 [N, 3, 224, 224]."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, not uint8 NHWC")
        x = images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 255
        size = (INPUT_SIZE, INPUT_SIZE)
        x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
        return (x - self.mean) / self.std

    @torch.inference_mode()
    def describe(self, images: Tensor) -> Features:
        """uint8 images [N, H, W, C] -> features [N, 768]; it knows no classes."""
        return Features(self.body(self.prepare(images)), None)

    def quality(self, real: Description, labels: NDArray[Any]) -> dict[str, float]:
        """Return nothing: these weights are everybody's."""
        del real, labels
        return {}

    def compare(self, real: Statistics, found: Description, labels: NDArray[Any]) -> Figures:
        """Return the distance of the two sets."""
        del labels
        distance = frechet_distance(real.moments, found.moments)
        return Figures({"frechet_distance_dinov2": distance}, {})


def load_dinov2(path: Path, device: torch.device | str = "cpu") -> DinoV2:
    """Load a converted file; its positions, of 37 × 37 patches, are resampled to 16 × 16."""
    state = load_converted(WEIGHTS["dinov2"], path)
    digest = tensors_digest(state)
    with torch.device("meta"):
        model = DinoV2()
    side = INPUT_SIZE // 14
    state["pos_embed"] = resample_abs_pos_embed(
        state["pos_embed"], new_size=[side, side], num_prefix_tokens=1
    )
    model.body.load_state_dict(state, assign=True)
    for name, values in (("mean", _MEAN), ("std", _STD)):
        model.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)
    model.weights_digest = digest
    return model.to(device).eval().requires_grad_(False)

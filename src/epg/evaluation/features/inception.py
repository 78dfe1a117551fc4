"""The Inception-v3 of published FID figures (TensorFlow graph of 2015-12-05), in torch.

torchvision's blocks with that graph's differences: average pooling does not count padding, the
last block takes the maximum, 1,008 outputs, and TensorFlow 1's bilinear resize to 299 pixels.
Parameter names are those of the published weight file, so that it loads strictly.

Shapes: `N` batch, `H W` pixels; NHWC images in, NCHW inside.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.inception import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from epg.evaluation.features.base import Description, Features, Figures, Statistics
from epg.evaluation.features.converted import load_converted
from epg.evaluation.features.packing import PackedConvolution, can_pack
from epg.evaluation.features.weights import WEIGHTS, WIDTHS
from epg.evaluation.metrics.frechet import frechet_distance
from epg.evaluation.metrics.inception_score import score
from epg.evaluation.metrics.kid import kernel_distance
from epg.model.files import tensors_digest

FEATURE_DIM = WIDTHS["inception"]
SPATIAL_CHANNELS = 7  # of 17×17 pixels: 2,023 features
INPUT_SIZE = 299
_CACHED_IMAGES = 4  # at once on CPUs: the layers of more leave the caches; 16 take 6 % longer each


def _average(x: Tensor) -> Tensor:
    """Mean over 3×3 pixels, over those that lie inside the image."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _after_average(branch: BasicConv2d, x: Tensor) -> Tensor:
    """Return a branch of averaged pixels.

    Its 1×1 convolution comes first: the result is the same, of fewer channels to average.
    """
    return F.relu(_average(branch.bn(branch.conv(x))), inplace=True)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _BlockA(InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(double),
            _after_average(self.branch_pool, x),
        ]


class _BlockC(InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            _after_average(self.branch_pool, x),
        ]


class _BlockE(InceptionE):
    """Block of the last stage; the two of them pool differently."""

    def __init__(self, in_channels: int, *, maximum: bool) -> None:
        super().__init__(in_channels)
        self._maximum = maximum

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = self.branch_pool
        return [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            pool(_maximum(x)) if self._maximum else _after_average(pool, x),
        ]


class FidInception(nn.Module):
    """Features of published FID, sFID and inception scores from uint8 images."""

    name = WEIGHTS["inception"].space
    width = FEATURE_DIM
    figures: tuple[str, ...] = ("fid", "sfid", "kid", "inception_score")
    weights_digest = ""
    preprocessing = f"TensorFlow 1's bilinear resize to {INPUT_SIZE} pixels, -1 to 1"
    device: torch.device | str = "cpu"

    def __init__(self) -> None:
        super().__init__()
        # The names are the weight file's.
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = _BlockA(192, pool_features=32)
        self.Mixed_5c = _BlockA(256, pool_features=64)
        self.Mixed_5d = _BlockA(288, pool_features=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = _BlockC(768, channels_7x7=128)
        self.Mixed_6c = _BlockC(768, channels_7x7=160)
        self.Mixed_6d = _BlockC(768, channels_7x7=160)
        self.Mixed_6e = _BlockC(768, channels_7x7=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = _BlockE(1280, maximum=False)
        self.Mixed_7c = _BlockE(2048, maximum=True)
        self.fc = nn.Linear(FEATURE_DIM, 1008)

    @torch.inference_mode()
    def describe(self, images: Tensor) -> Features:
        """Images uint8 [N, H, W, 3] of any size (grey ones: [N, H, W, 1]) -> 2048, 1008, 2023."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, not uint8 NHWC")
        few = _CACHED_IMAGES if images.device.type == "cpu" else len(images)
        parts = [self._describe(part) for part in images.split(max(few, 1))]
        return Features(*(torch.cat(found) for found in zip(*parts, strict=True)))

    def _describe(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float()
        x = (resize_like_tensorflow(x, INPUT_SIZE) - 128.0) / 128.0
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x.contiguous(memory_format=torch.channels_last)))
        x = F.max_pool2d(self.Conv2d_2b_3x3(x), 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        # The graph's `mixed_6/conv`: the branch that the channels of this block begin with.
        spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1)
        x = self.Mixed_6e(x)
        pool = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return pool, pool @ self.fc.weight.T, spatial.flatten(1)

    def quality(self, real: Description, labels: NDArray[np.int64]) -> dict[str, float]:
        """Return nothing: these weights are everybody's."""
        del real, labels
        return {}

    def compare(self, real: Statistics, found: Description, labels: NDArray[np.int64]) -> Figures:
        """Return FID, sFID, KID and the inception score, as far as the reference lets it."""
        del labels
        metrics = {
            "fid": frechet_distance(real.moments, found.moments),
            "inception_score": score(found.splits),
        }
        if real.spatial is not None and found.spatial is not None:
            metrics["sfid"] = frechet_distance(real.spatial, found.spatial)
        if min(len(real.features), len(found.features)) > 1:  # a file may have no images
            metrics["kid"] = kernel_distance(found.features, real.features, device=self.device)
        return Figures(metrics, {})

    def fold(self, device: torch.device | str = "cpu") -> FidInception:
        """Move to a device, made fast: nearly twice as fast on CPUs.

        Batch normalisation is folded into the convolutions, channels come last, and on CPUs the
        weights are packed.
        """
        self.eval()
        layers = [module for module in self.modules() if isinstance(module, BasicConv2d)]
        for layer in layers:
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.bn)
            layer.bn = nn.Identity()
        self.to(device).to(memory_format=torch.channels_last).requires_grad_(False)
        if torch.device(device).type == "cpu" and can_pack():
            for layer in layers:
                layer.conv = PackedConvolution(layer.conv, _CACHED_IMAGES)
        return self


def resize_like_tensorflow(x: Tensor, size: int) -> Tensor:
    """Bilinear resize [N, C, H, W] -> [N, C, size, size] as TensorFlow 1 did it.

    Neither corners nor pixel centres are aligned: output pixel i lies at i·H/size. With corners
    aligned torch puts it at i·(H - 1)/(size - 1): one more pixel on either side of the fraction,
    the last one repeated, makes the two the same.

    TensorFlow 1.x, resize_bilinear(align_corners=False, half_pixel_centers=False).
    """
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    sides = (size + 1, size + 1)
    x = F.interpolate(x, size=sides, mode="bilinear", align_corners=True)
    return x[:, :, :size, :size]


def load_inception(path: Path, device: torch.device | str = "cpu") -> FidInception:
    """Load a converted file, strictly, and fold it for speed. Raises `UserError` for any other."""
    state = load_converted(WEIGHTS["inception"], path)
    with torch.device("meta"):  # no time for random weights that are replaced at once
        model = FidInception()
    model.load_state_dict(state, assign=True)
    model.weights_digest = tensors_digest(state)
    model.device = device
    return model.fold(device)

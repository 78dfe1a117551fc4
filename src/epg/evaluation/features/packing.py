"""Convolutions whose weights lie as oneDNN, which computes them on CPUs, takes them.

torch would lay them out anew at each call, which few images at a time do not pay for.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn


class PackedConvolution(nn.Module):
    """A convolution without gradients, for images of one size and number; others take longer."""

    def __init__(self, convolution: nn.Conv2d, images: int) -> None:
        """Take over a convolution for so many images at a time.

        Their size is that of the first call, which chooses the layout.
        """
        super().__init__()
        self._plain: nn.Conv2d | None = convolution
        self._images = images
        self._packed = torch.empty(0)
        self._bias = convolution.bias
        self._how = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 [N, C, H, W], channels last, into the same."""
        if self._plain is not None:
            weight = self._plain.weight.detach().to_mkldnn()
            size = [self._images, *x.shape[1:]]
            self._packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(weight, *self._how, size)
            self._plain = None
        convolve = torch.ops.mkldnn._convolution_pointwise
        found: Tensor = convolve(x, self._packed, self._bias, *self._how, "none", [], "")
        return found


def can_pack() -> bool:
    """Return whether this machine's torch packs; tried on x86 alone."""
    return (
        platform.machine() == "x86_64"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.aten, "mkldnn_reorder_conv2d_weight")
    )

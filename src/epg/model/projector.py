"""The contrastive projector of stage 1; stage 2 drops it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over the images of all processes.

    PyTorch's own does so on GPUs alone. Where `total` is None this is `nn.BatchNorm1d`.

    Attributes:
        total: a tensor of every process -> its sum over them, through which gradients flow.
        processes: how many they are; each has equally many rows.
    """

    total: Callable[[Tensor], Tensor] | None = None
    processes: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, D] to [N, D] by the mean and variance of all processes' rows."""
        if self.total is None or not self.training:
            return super().forward(x)
        x = x.float()
        rows = len(x) * self.processes
        mean = self.total(x.sum(0)) / rows
        # The deviation from the common mean, not E[x^2] - E[x]^2, which cancels in float32.
        variance = self.total((x - mean).square().sum(0)) / rows
        self._remember(mean.detach(), variance.detach(), rows)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Update the buffers; the variance there is the unbiased one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (rows / (rows - 1)), self.momentum)


class Projector(nn.Module):
    """Linear-BN-ReLU twice, then Linear; no biases, no final BatchNorm.

    Source: docs/method.md, 2.1.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, output_dim: int) -> None:
        """Build the three layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim, bias=False),
            BatchNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, bias=False),
            BatchNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim, bias=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map features [N, embed_dim] to [N, output_dim]."""
        return self.layers(z)

    def share_statistics(self, total: Callable[[Tensor], Tensor], processes: int) -> None:
        """Let BatchNorm look at the rows of all processes; see `BatchNorm.total`."""
        for layer in self.layers:
            if isinstance(layer, BatchNorm):
                layer.total, layer.processes = total, processes

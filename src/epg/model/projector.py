"""The contrastive projector of stage 1; stage 2 drops it."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear-BN-ReLU twice, then Linear; no biases, no final BatchNorm.

    Source: docs/method.md, 2.1.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, output_dim: int) -> None:
        """Build the three layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim, bias=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map features [N, embed_dim] to [N, output_dim]."""
        return self.layers(z)

"""The decoder of stage 2: skip connections from the encoder, adaLN-Zero conditioning.

Shape letters: N batch, L tokens, E encoder width, D decoder width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epg.model.layers import Attention, Mlp, initialise, layer_norm

#: (number of the decoder's block, shape [N, L, D]) -> numbers in [0, 1) of that shape on the
#: network's device. The same arguments give the same numbers: a block that is computed twice,
#: for a pair's other pass or for its gradient alone, drops the same values.
DropoutDraws = Callable[[int, torch.Size], Tensor]


class DecoderBlock(nn.Module):
    """Merge with a skip, then a transformer block modulated by the condition.

    Source: docs/method.md, 3.
    """

    def __init__(
        self,
        index: int,
        embed_dim: int,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        """Build block number `index`, of width `dim` for skips of width `embed_dim`."""
        super().__init__()
        self.index = index
        self.dropout = dropout
        self.merge = nn.Linear(embed_dim + dim, dim)
        self.merge_norm = layer_norm(dim)
        self.modulation = nn.Linear(embed_dim, 6 * dim)
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(
        self, x: Tensor, skip: Tensor, condition: Tensor, draws: DropoutDraws | None
    ) -> Tensor:
        """Map tokens [N, L, D] and skip [N, L, E] to [N, L, D]; `condition` [N, E] is activated."""
        x = self.merge_norm(self.merge(torch.cat([x, skip], dim=-1)))
        modulation = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        attended = self.attn(torch.addcmul(shift1, self.norm1(x), 1 + scale1))
        x = torch.addcmul(x, gate1, self._drop(attended, draws))
        mixed = self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        return torch.addcmul(x, gate2, mixed)

    def _drop(self, x: Tensor, draws: DropoutDraws | None) -> Tensor:
        """Dropout by numbers that are handed in, so that two passes can share a mask."""
        if not self.training or self.dropout == 0.0:
            return x
        if draws is None:
            raise ValueError("a decoder with dropout needs random numbers while it trains")
        keep = draws(self.index, x.shape) >= self.dropout
        return x * keep / (1.0 - self.dropout)


class Decoder(nn.Module):
    """As many blocks as the encoder has, taking its skips last first; predicts pixels."""

    def __init__(
        self,
        embed_dim: int,
        decoder_embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        channels: int,
        dropout: float = 0.0,
    ) -> None:
        """Build and initialise; modulation and head start at zero."""
        super().__init__()
        self.embed = (
            nn.Linear(embed_dim, decoder_embed_dim)
            if embed_dim != decoder_embed_dim
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            DecoderBlock(index, embed_dim, decoder_embed_dim, num_heads, mlp_ratio, dropout)
            for index in range(depth)
        )
        self.norm = layer_norm(decoder_embed_dim)
        self.head = nn.Linear(decoder_embed_dim, channels * patch_size**2)
        self._initialise()

    def _initialise(self) -> None:
        initialise(self)
        merges = [block.merge for block in self.blocks if isinstance(block, DecoderBlock)]
        for linear in [*merges, self.embed]:
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
        modulations = [b.modulation for b in self.blocks if isinstance(b, DecoderBlock)]
        for linear in [*modulations, self.head]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        tokens: Tensor,
        skips: list[Tensor],
        condition: Tensor,
        dropout_draws: DropoutDraws | None = None,
    ) -> Tensor:
        """Map normalised tokens [N, L, E] to patch pixels [N, L - 2, C * P * P]."""
        x = self.embed(tokens)
        activated = F.silu(condition)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip, activated, dropout_draws)
        return self.head(self.norm(x[:, 2:]))

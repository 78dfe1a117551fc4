"""The decoder of stage 2: skip connections from the encoder, adaLN-Zero conditioning.

Shape letters: N batch, L tokens, E encoder width, D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epg.model.layers import Attention, Mlp, initialise, layer_norm, run_block


class DecoderBlock(nn.Module):
    """Merge with a skip, then a transformer block modulated by the condition.

    Source: docs/method.md, 3.
    """

    def __init__(
        self,
        embed_dim: int,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        """Build a block of width `dim` for skips of width `embed_dim`."""
        super().__init__()
        self.dropout = dropout
        self.merge = nn.Linear(embed_dim + dim, dim)
        self.merge_norm = layer_norm(dim)
        self.modulation = nn.Linear(embed_dim, 6 * dim)
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor, skip: Tensor, condition: Tensor, kept: Tensor | None) -> Tensor:
        """Map tokens [N, L, D] and skip [N, L, E] to [N, L, D].

        Args:
            x: tokens.
            skip: output of the encoder's block.
            condition: [N, E], activated.
            kept: booleans [N, L, D]: what dropout keeps.
        """
        x = self.merge_norm(self.merge(torch.cat([x, skip], dim=-1)))
        modulation = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        attended = self.attn(torch.addcmul(shift1, self.norm1(x), 1 + scale1))
        x = torch.addcmul(x, gate1, self._drop(attended, kept))
        mixed = self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        return torch.addcmul(x, gate2, mixed)

    def _drop(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """Dropout by a mask that is handed in, so that two passes can share it."""
        if not self.training or self.dropout == 0.0:
            return x
        if kept is None:
            raise ValueError("a decoder with dropout needs masks while it trains")
        return x * kept / (1.0 - self.dropout)


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
        self.recomputes = False
        self.embed = (
            nn.Linear(embed_dim, decoder_embed_dim)
            if embed_dim != decoder_embed_dim
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            DecoderBlock(embed_dim, decoder_embed_dim, num_heads, mlp_ratio, dropout)
            for _ in range(depth)
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
        kept: list[Tensor] | None = None,
    ) -> Tensor:
        """Map normalised tokens [N, L, E] to patch pixels [N, L - 2, C * P * P].

        Args:
            tokens: the encoder's, normalised.
            skips: raw output of each of its blocks, first to last.
            condition: [N, E].
            kept: for each block, what dropout keeps: booleans [N, L, D].
        """
        x = self.embed(tokens)
        activated = F.silu(condition)
        masks: Sequence[Tensor | None] = kept or [None] * len(skips)
        for block, skip, mask in zip(self.blocks, reversed(skips), masks, strict=True):
            x = run_block(block, self.recomputes, x, skip, activated, mask)
        return self.head(self.norm(x[:, 2:]))

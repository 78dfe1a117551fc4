"""The ViT encoder that both stages share.

Token order is [CLS, time, patches]. Shape letters: N batch, C channels, H W pixels, L tokens,
D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epg.model.layers import Block, initialise, layer_norm, run_block, time_token

NUM_PREFIX_TOKENS = 2  # CLS, time


class EncoderOutput(NamedTuple):
    """Everything that a decoder needs; `tokens` is before the final LayerNorm."""

    tokens: Tensor  # [N, L, D]
    skips: list[Tensor]  # raw output of every block, first to last, each [N, L, D]
    time: Tensor  # [N, D]


class Encoder(nn.Module):
    """Vision transformer on scaled noisy pixels and their noise level.

    Source: docs/method.md, 2.1.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        channels: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
    ) -> None:
        """Build and initialise the encoder.

        Where `recomputes` is set, blocks are computed again for their gradient; where `fuses` is,
        what comes before them is one compiled function.
        """
        super().__init__()
        self.recomputes = False
        self.fuses = False
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.num_patches = (image_size // patch_size) ** 2
        self.patch_embed = nn.Conv2d(channels, embed_dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(
            torch.empty(1, NUM_PREFIX_TOKENS + self.num_patches, embed_dim)
        )
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = layer_norm(embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        initialise(self)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        assert self.patch_embed.bias is not None
        nn.init.zeros_(self.patch_embed.bias)

    def forward(
        self, x: Tensor, c_noise: Tensor, class_embedding: Tensor | None = None
    ) -> EncoderOutput:
        """Encode `c_in * x` [N, C, H, W] at `c_noise` [N]; a class is added to the CLS token."""
        tokens, time = self.embed(x, c_noise, class_embedding)
        skips = []
        for block in self.blocks:
            tokens = run_block(block, self.recomputes, tokens)
            skips.append(tokens)
        return EncoderOutput(tokens, skips, time)

    def features(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Return z = LN(CLS) [N, D] of `c_in * x` [N, C, H, W].

        Of the last block only the CLS token is made: nothing else of it is looked at.
        """
        tokens, _ = self.embed(x, c_noise)
        for block in self.blocks[:-1]:
            tokens = run_block(block, self.recomputes, tokens)
        cls = run_block(self.blocks[-1], self.recomputes, tokens, 1)
        return self.norm(cls[:, 0])

    def embed(
        self, x: Tensor, c_noise: Tensor, class_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the first block's input [N, L, D] and the time token [N, D]."""
        make = _compiled_tokens() if self.fuses else _tokens
        return make(self, x, c_noise, class_embedding)

    def patches(self, x: Tensor) -> Tensor:
        """Return `patch_embed` of the image, row by row [N, L - 2, D]."""
        if not x.is_cuda:
            return self.patch_embed(x).flatten(2).transpose(1, 2)
        return self.patch_product(x)

    def patch_product(self, x: Tensor) -> Tensor:
        """Return the same by one product of matrices, which GPUs make faster than a convolution."""
        batch, channels, height, width = x.shape
        side = self.patch_size
        cut = x.reshape(batch, channels, height // side, side, width // side, side)
        pixels = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, self.num_patches, -1)
        return F.linear(pixels, self.patch_embed.weight.flatten(1), self.patch_embed.bias)


def _tokens(
    encoder: Encoder, x: Tensor, c_noise: Tensor, class_embedding: Tensor | None
) -> tuple[Tensor, Tensor]:
    time = time_token(c_noise, encoder.embed_dim)
    cls = encoder.cls_token.expand(len(x), -1, -1)
    if class_embedding is not None:
        cls = cls + class_embedding[:, None]
    # Under autocast the patches have 16 bits; time, and the sum over all blocks, keep 32.
    patches = encoder.patches(x).to(time.dtype)
    return torch.cat([cls, time[:, None], patches], dim=1) + encoder.pos_embed, time


@functools.cache
def _compiled_tokens() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_tokens, dynamic=False)

"""Transformer parts shared by encoder and decoder.

Attention, MLP and patch embedding equal timm's bit for bit (tests/parity/test_model.py) and are as
fast; they are our own because importing timm takes each process 2 s more, as long as torch itself.

Shape letters: N batch, L tokens, D width, K heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LAYER_NORM_EPS = 1e-6


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm with affine parameters and this method's epsilon."""
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPS)


class Attention(nn.Module):
    """Multi-head self-attention: q, k, v without bias, output projection with bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Split `dim` into `num_heads` heads."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """Map [N, L, D] to [N, L, D], or to the first `queries` tokens alone."""
        batch, tokens, dim = x.shape
        if queries is not None:
            return self._of_first(x, queries)
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, K, L, D/K]
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))

    def _of_first(self, x: Tensor, queries: int) -> Tensor:
        """All tokens are looked at, and only the first ones look."""
        batch, tokens, dim = x.shape
        weight, heads = self.qkv.weight, (self.num_heads, dim // self.num_heads)
        q = F.linear(x[:, :queries], weight[:dim]).reshape(batch, queries, *heads).transpose(1, 2)
        kv = F.linear(x, weight[dim:]).reshape(batch, tokens, 2, *heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, queries, dim))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, ratio: float) -> None:
        """Widen `dim` by `ratio` in between."""
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio))
        self.fc2 = nn.Linear(int(dim * ratio), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, L, D] to [N, L, D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-LN transformer block: attention, then MLP, each added to its input.

    Source: docs/method.md, 2.1.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        """Build one block of width `dim`."""
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor, wanted: int | None = None) -> Tensor:
        """Map [N, L, D] to [N, L, D], or to the first `wanted` tokens alone."""
        x = x[:, :wanted] + self.attn(self.norm1(x), wanted)
        return x + self.mlp(self.norm2(x))


def run_block(block: nn.Module, recomputes: bool, *inputs: Tensor | int | None) -> Tensor:
    """Return a block's output; with `recomputes` it is made again when its gradient is taken.

    Nothing random happens within a block (dropout masks come from outside), so that it gives the
    same again without the state of any generator being kept.
    """
    if recomputes and torch.is_grad_enabled():
        again: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return again
    output: Tensor = block(*inputs)
    return output


def time_token(c_noise: Tensor, dim: int) -> Tensor:
    """Sinusoid of `c_noise` [N] as [N, dim], cosines first; float32, used without an MLP.

    Frequencies are 10000^(-j / (dim/2)), j = 0 ... dim/2 - 1.

    Source: docs/method.md, 1.4.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=c_noise.device) / half
    frequencies = torch.pow(10000.0, -exponents).to(torch.float32)
    angles = c_noise.to(torch.float32)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linear weights (q, k, v as three matrices), zero biases."""
    for child in module.modules():
        if isinstance(child, Attention):
            for part in child.qkv.weight.chunk(3, dim=0):
                nn.init.xavier_uniform_(part)
            nn.init.xavier_uniform_(child.proj.weight)
            nn.init.zeros_(child.proj.bias)
        elif isinstance(child, Mlp):
            for linear in (child.fc1, child.fc2):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)

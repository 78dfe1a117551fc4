"""Parameters and multiply-accumulates in closed form, from shapes alone.

One multiply-accumulate is one MAC; FLOPs = 2 MACs. Attention products (Q K^T and A V) are
counted; element-wise work (LayerNorm, GELU, softmax) is not, which is the DiT convention. The
paper's own figures leave the attention products out, hence both totals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NUM_PREFIX_TOKENS = 2  # CLS, time


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one evaluation for one image."""

    macs: int
    attention_macs: int  # Q K^T and A V, part of `macs`

    @property
    def gmacs(self) -> float:
        """Billions of multiply-accumulates, attention included."""
        return self.macs / 1e9

    @property
    def gmacs_without_attention(self) -> float:
        """Billions of multiply-accumulates, attention products left out (the paper's way)."""
        return (self.macs - self.attention_macs) / 1e9

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations: 2 per multiply-accumulate."""
        return 2 * self.gmacs

    def __add__(self, other: Cost) -> Cost:
        """Add two parts of a network."""
        return Cost(self.macs + other.macs, self.attention_macs + other.attention_macs)


def _tokens(encoder: dict[str, Any]) -> int:
    return (encoder["image_size"] // encoder["patch_size"]) ** 2 + NUM_PREFIX_TOKENS


def _block(tokens: int, dim: int, mlp_ratio: float) -> Cost:
    attention = 2 * tokens * tokens * dim
    linear = tokens * (4 * dim * dim + 2 * dim * int(dim * mlp_ratio))
    return Cost(linear + attention, attention)


def encoder_cost(encoder: dict[str, Any]) -> Cost:
    """Cost of the encoder, patch embedding included."""
    tokens, dim = _tokens(encoder), encoder["embed_dim"]
    pixels = encoder["channels"] * encoder["patch_size"] ** 2
    cost = Cost((tokens - NUM_PREFIX_TOKENS) * pixels * dim, 0)
    for _ in range(encoder["depth"]):
        cost += _block(tokens, dim, encoder["mlp_ratio"])
    return cost


def generator_cost(arguments: dict[str, Any]) -> Cost:
    """Cost of one evaluation of a `Generator` built with these keyword arguments."""
    encoder = arguments["encoder"]
    tokens, e, d = _tokens(encoder), encoder["embed_dim"], arguments["decoder_embed_dim"]
    pixels = encoder["channels"] * encoder["patch_size"] ** 2
    cost = encoder_cost(encoder)
    if e != d:
        cost += Cost(tokens * e * d, 0)
    for _ in range(encoder["depth"]):
        merge, modulation = tokens * (e + d) * d, e * 6 * d
        cost += _block(tokens, d, encoder["mlp_ratio"]) + Cost(merge + modulation, 0)
    return cost + Cost((tokens - NUM_PREFIX_TOKENS) * d * pixels, 0)


def encoder_parameters(encoder: dict[str, Any]) -> int:
    """Count the encoder's parameters."""
    tokens, dim = _tokens(encoder), encoder["embed_dim"]
    pixels = encoder["channels"] * encoder["patch_size"] ** 2
    embedding = pixels * dim + dim + dim + tokens * dim  # patches, CLS, positions
    return embedding + encoder["depth"] * _block_parameters(dim, encoder["mlp_ratio"]) + 2 * dim


def _block_parameters(dim: int, mlp_ratio: float) -> int:
    hidden = int(dim * mlp_ratio)
    attention = 4 * dim * dim + dim
    return attention + 2 * dim * hidden + hidden + dim + 4 * dim  # MLP, two LayerNorms


def generator_parameters(arguments: dict[str, Any]) -> int:
    """Count the parameters of a `Generator` built with these keyword arguments."""
    encoder = arguments["encoder"]
    e, d = encoder["embed_dim"], arguments["decoder_embed_dim"]
    pixels = encoder["channels"] * encoder["patch_size"] ** 2
    merge = (e + d) * d + d + 2 * d
    modulation = e * 6 * d + 6 * d
    block = _block_parameters(d, encoder["mlp_ratio"]) + merge + modulation
    head = 2 * d + d * pixels + pixels
    widen = e * d + d if e != d else 0
    classes = (arguments["num_classes"] + 1) * e
    return encoder_parameters(encoder) + classes + widen + encoder["depth"] * block + head

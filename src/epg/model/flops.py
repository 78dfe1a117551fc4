"""Parameters and multiply-accumulates in closed form, from shapes alone.

One multiply-accumulate is one MAC; FLOPs = 2 MACs. Papers count in two ways: attention products
(Q K^T and A V) included and element-wise work left out (DiT), or attention products left out and
5 operations per LayerNorm element counted (EPG). Both totals come from the same parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NUM_PREFIX_TOKENS = 2  # CLS, time
LAYER_NORM_OPERATIONS = 5  # per element, in the paper's convention


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one evaluation for one image."""

    macs: int = 0  # products of matrices, attention included
    attention_macs: int = 0  # Q K^T and A V, part of `macs`
    layer_norm_elements: int = 0

    @property
    def gmacs(self) -> float:
        """Billions of multiply-accumulates, attention included (DiT's convention)."""
        return self.macs / 1e9

    @property
    def gmacs_without_attention(self) -> float:
        """Billions of multiply-accumulates of the linear layers alone."""
        return (self.macs - self.attention_macs) / 1e9

    @property
    def gmacs_paper(self) -> float:
        """Billions in EPG's convention: without attention products, 5 per LayerNorm element.

        Source: docs/method.md, 7.
        """
        return self.gmacs_without_attention + LAYER_NORM_OPERATIONS * self.layer_norm_elements / 1e9

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations: 2 per multiply-accumulate."""
        return 2 * self.gmacs

    def __add__(self, other: Cost) -> Cost:
        """Add two parts of a network."""
        return Cost(
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
            self.layer_norm_elements + other.layer_norm_elements,
        )

    def __mul__(self, count: int) -> Cost:
        """Repeat a part of a network."""
        return Cost(
            count * self.macs, count * self.attention_macs, count * self.layer_norm_elements
        )


# --- Parts of any transformer --------------------------------------------------------------


def linear(rows: int, width_in: int, width_out: int) -> Cost:
    """Cost of a linear layer on `rows` vectors; a patch embedding is one on its patches."""
    return Cost(rows * width_in * width_out)


def layer_norm(rows: int, width: int) -> Cost:
    """Cost of a LayerNorm on `rows` vectors."""
    return Cost(layer_norm_elements=rows * width)


def self_attention(tokens: int, width: int) -> Cost:
    """Cost of the products Q K^T and A V over all heads, without the linear layers around them."""
    products = 2 * tokens * tokens * width
    return Cost(products, attention_macs=products)


def transformer_block(tokens: int, width: int, mlp_ratio: float) -> Cost:
    """Cost of a pre-LN block: two LayerNorms, q, k, v and output, attention, two-layer MLP."""
    hidden = int(width * mlp_ratio)
    return (
        layer_norm(tokens, width) * 2
        + linear(tokens, width, width) * 4
        + self_attention(tokens, width)
        + linear(tokens, width, hidden)
        + linear(tokens, hidden, width)
    )


# --- The networks of this method -----------------------------------------------------------


def _tokens(encoder: dict[str, Any]) -> int:
    return (encoder["image_size"] // encoder["patch_size"]) ** 2 + NUM_PREFIX_TOKENS


def encoder_cost(encoder: dict[str, Any]) -> Cost:
    """Cost of the encoder, patch embedding and final LayerNorm on all tokens included."""
    tokens, width = _tokens(encoder), encoder["embed_dim"]
    pixels = encoder["channels"] * encoder["patch_size"] ** 2
    return (
        linear(tokens - NUM_PREFIX_TOKENS, pixels, width)
        + transformer_block(tokens, width, encoder["mlp_ratio"]) * encoder["depth"]
        + layer_norm(tokens, width)
    )


def projector_cost(projector: dict[str, Any]) -> Cost:
    """Cost of the projector on one image's features."""
    hidden = projector["hidden_dim"]
    return (
        linear(1, projector["embed_dim"], hidden)
        + linear(1, hidden, hidden)
        + linear(1, hidden, projector["output_dim"])
    )


def generator_cost(arguments: dict[str, Any]) -> Cost:
    """Cost of one evaluation of a `Generator` built with these keyword arguments.

    Source: docs/method.md, 7.
    """
    encoder = arguments["encoder"]
    tokens, e, d = _tokens(encoder), encoder["embed_dim"], arguments["decoder_embed_dim"]
    patches, pixels = tokens - NUM_PREFIX_TOKENS, encoder["channels"] * encoder["patch_size"] ** 2
    block = (
        linear(tokens, e + d, d)  # merge with the skip
        + layer_norm(tokens, d)
        + linear(1, e, 6 * d)  # modulation
        + transformer_block(tokens, d, encoder["mlp_ratio"])
    )
    widen = linear(tokens, e, d) if e != d else Cost()
    head = layer_norm(patches, d) + linear(patches, d, pixels)
    return encoder_cost(encoder) + widen + block * encoder["depth"] + head


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


def projector_parameters(projector: dict[str, Any]) -> int:
    """Count the projector's parameters; its BatchNorms have a scale and a shift each."""
    hidden = projector["hidden_dim"]
    linears = hidden * (projector["embed_dim"] + hidden + projector["output_dim"])
    return linears + 4 * hidden


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

"""GPU memory of a training in closed form: state by parameters, activations by shapes.

Counted for torch's autograd with 16-bit products (bf16 or fp16 autocast) and a float32 residual
stream, fused element-wise work: what must be kept for the backward pass, not what is in flight.
Shape letters: T tokens, e width of the encoder, d of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from epg.config.recipe import Recipe
from epg.model.flops import (
    NUM_PREFIX_TOKENS,
    encoder_parameters,
    generator_parameters,
    projector_parameters,
)

Width = Literal[2, 4]  # bytes of a number in the products: 16 bits, or float32

#: Bytes that are kept per token and unit of width. In a block: both LayerNorms' inputs (4 each,
#: the float32 stream); input of q, k, v; q, k, v; output of attention; input of the MLP; input
#: and output of its GELU, four times as wide.
_ENCODER_BLOCK: dict[Width, int] = {2: 36, 4: 64}
#: The same, and: the merge's input and output, and what each gate multiplies.
_DECODER_BLOCK: dict[Width, int] = {2: 44, 4: 80}
_SKIP: dict[Width, int] = {2: 2, 4: 4}  # the merge's other input, of width e
#: Final LayerNorm and the layer behind it.
_ENDING: dict[Width, int] = {2: 6, 4: 8}
_IMAGES = 6  # clean, noise, noisy, scaled, estimate, difference; float32


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU while training."""

    state: int  # weights, gradients, optimizer, averages, 16-bit copies
    activations: int  # kept for the backward pass, of all images that are there at once

    @property
    def total(self) -> int:
        """Both."""
        return self.state + self.activations


def training_memory(recipe: Recipe, objective: str, images: int, width: Width = 2) -> Memory:
    """Return the memory of one GPU that trains on `images` at once.

    Args:
        recipe: the recipe.
        objective: `pretrain`, `denoising` or `consistency`.
        images: of one GPU, in one pass.
        width: bytes of a number in the network's products.

    Source: docs/method.md, 7.1.
    """
    again = getattr(recipe, objective).activation_checkpointing
    arguments = recipe.generator_arguments()
    if objective == "pretrain":
        passes = 3 * encoder_activations(arguments["encoder"], width, again)
        return Memory(_pretraining_state(recipe, width), images * passes)
    kept = generator_activations(arguments, width, again)
    state = _finetuning_state(recipe, objective, width)
    if objective == "consistency" and recipe.has_auxiliary_term:
        kept += encoder_activations(arguments["encoder"], width, again)  # the frozen one's
        state += (4 + _copy(width)) * encoder_parameters(arguments["encoder"])
    return Memory(state, images * kept)


def encoder_activations(encoder: dict[str, Any], width: Width, again: bool = False) -> int:
    """Return the bytes that one image's pass through the encoder keeps.

    Args:
        encoder: keyword arguments of `Encoder`.
        width: bytes of a number in the products.
        again: blocks are computed again for their gradient: their inputs are kept, and one
            block's inside at a time.

    Source: docs/method.md, 7.1.
    """
    tokens = (encoder["image_size"] // encoder["patch_size"]) ** 2 + NUM_PREFIX_TOKENS
    block, depth = _ENCODER_BLOCK[width], encoder["depth"]
    per_width = 4 * depth + block if again else block * depth
    return tokens * encoder["embed_dim"] * (per_width + _ENDING[width])


def generator_activations(arguments: dict[str, Any], width: Width, again: bool = False) -> int:
    """Return the bytes that one image's pass through encoder and decoder keeps.

    Source: docs/method.md, 7.1.
    """
    encoder, d = arguments["encoder"], arguments["decoder_embed_dim"]
    e, depth = encoder["embed_dim"], encoder["depth"]
    tokens = (encoder["image_size"] // encoder["patch_size"]) ** 2 + NUM_PREFIX_TOKENS
    inside = _DECODER_BLOCK[width] * d + _SKIP[width] * e
    decoder = 4 * d * depth + inside if again else inside * depth
    widen = _SKIP[width] * e if e != d else 0
    images = 4 * _IMAGES * encoder["channels"] * encoder["image_size"] ** 2
    kept = encoder_activations(encoder, width, again)
    return kept + tokens * (decoder + _ENDING[width] * d + widen) + images


def _pretraining_state(recipe: Recipe, width: Width) -> int:
    parameters = encoder_parameters(recipe.encoder_arguments())
    parameters += projector_parameters(recipe.projector_arguments())
    return _trained(width, averages=1) * parameters  # the average: the EMA target


def _finetuning_state(recipe: Recipe, objective: str, width: Width) -> int:
    settings = getattr(recipe, objective)
    arguments = recipe.generator_arguments()
    whole, encoder = generator_parameters(arguments), encoder_parameters(arguments["encoder"])
    trained = whole if settings.encoder_trainable else whole - encoder
    averages = len(settings.ema_decays)
    frozen = whole - trained
    return _trained(width, averages) * trained + (4 * (1 + averages) + _copy(width)) * frozen


def _trained(width: Width, averages: int) -> int:
    """Bytes per parameter: weight, gradient, AdamW's two moments, averages, a 16-bit copy."""
    return 4 + 4 + 8 + 4 * averages + _copy(width)


def _copy(width: Width) -> int:
    """Bytes of autocast's copy of a weight."""
    return 2 if width == 2 else 0

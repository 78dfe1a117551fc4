"""A pre-trained encoder as a plain timm `VisionTransformer`, for probes and downstream use.

timm is not needed to write it. The level is fixed at the lowest one, at which images are clean to
the eye: its time token becomes timm's register token (order [CLS, register, patches], positions
over all of them, as here), and the scaling of the input goes into the patch embedding, so that
images are normalised as everybody does it, (x - mean) / std.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from epg.model.layers import time_token

#: A model of timm's with every size open; the arguments say all of them.
ARCHITECTURE = "vit_base_patch16_224"


def timm_arguments(encoder: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of timm's `VisionTransformer` for an encoder's own."""
    return {
        "img_size": encoder["image_size"],
        "patch_size": encoder["patch_size"],
        "in_chans": encoder["channels"],
        "embed_dim": encoder["embed_dim"],
        "depth": encoder["depth"],
        "num_heads": encoder["num_heads"],
        "mlp_ratio": encoder["mlp_ratio"],
        "num_classes": 0,
        "global_pool": "token",
        "qkv_bias": False,
        "reg_tokens": 1,
    }


def timm_weights(tensors: dict[str, Tensor], c_in: Tensor, c_noise: Tensor) -> dict[str, Tensor]:
    """Return an encoder's weights under timm's names, its level fixed.

    Args:
        tensors: weights of an `Encoder`.
        c_in: scale of the input at the level, [1].
        c_noise: argument of its time token, [1].

    Source: docs/method.md, 2.6.
    """
    width = tensors["cls_token"].shape[-1]
    renamed = {
        name: tensor for name, tensor in tensors.items() if not name.startswith("patch_embed.")
    }
    # Here images are divided by twice their deviation (section 1.1), in timm by the deviation.
    scale = float(c_in) / 2
    renamed["patch_embed.proj.weight"] = tensors["patch_embed.weight"] * scale
    renamed["patch_embed.proj.bias"] = tensors["patch_embed.bias"]
    renamed["reg_token"] = time_token(c_noise, width)[None]
    return renamed


def timm_config(
    arguments: dict[str, Any], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Return the `config.json` by which timm makes the model of its folder.

    Args:
        arguments: of `timm_arguments`.
        mean: pixel mean, one value or one per channel; `std` likewise.
        std: pixel deviation.
    """
    channels, size = arguments["in_chans"], arguments["img_size"]
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": arguments["embed_dim"],
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [channels, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(mean) * (channels if len(mean) == 1 else 1),
            "std": list(std) * (channels if len(std) == 1 else 1),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }

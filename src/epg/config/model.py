"""What a recipe says of noise levels and of the network's shape."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from epg.config.values import Few, PositiveFloat, Section, Size


class DiffusionConfig(Section):
    """Noise levels shared by all stages (docs/method.md, section 1.2)."""

    sigma_data: PositiveFloat = 0.5
    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0
    sigma_shift: PositiveFloat | None = Field(None, description="default: image_size / 64")

    @model_validator(mode="after")
    def _order(self) -> DiffusionConfig:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"diffusion.sigma_min is {self.sigma_min}: it must be below "
                f"diffusion.sigma_max ({self.sigma_max})"
            )
        return self


class ModelConfig(Section):
    """Encoder, projector and decoder shapes, in timm's words."""

    patch_size: Size
    embed_dim: Size
    depth: Few = Field(description="blocks of the encoder; the decoder has as many")
    num_heads: Few
    mlp_ratio: Annotated[float, Field(gt=0.0, le=1_000.0)] = 4.0
    decoder_embed_dim: Size | None = Field(None, description="default: embed_dim")
    decoder_num_heads: Few | None = Field(None, description="default: num_heads")
    projector_hidden_dim: Size = 4096
    projector_dim: Size = 256

    @model_validator(mode="after")
    def _heads(self) -> ModelConfig:
        decoder_dim = self.decoder_embed_dim or self.embed_dim
        decoder_heads = self.decoder_num_heads or self.num_heads
        for dim_key, dim, heads_key, heads in (
            ("embed_dim", self.embed_dim, "num_heads", self.num_heads),
            ("decoder_embed_dim", decoder_dim, "decoder_num_heads", decoder_heads),
        ):
            if dim % heads:
                raise ValueError(
                    f"model.{dim_key} is {dim}: it must be a multiple of "
                    f"model.{heads_key} ({heads})"
                )
        if self.embed_dim % 2:
            raise ValueError(f"model.embed_dim is {self.embed_dim}: it must be even (time token)")
        return self

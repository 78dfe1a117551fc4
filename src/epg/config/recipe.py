"""The typed recipe: one file describes one experiment, all of its stages.

Its sections are in `data`, `model`, `training` and `evaluating` beside this file. Field names
follow `docs/method.md`; sigmas are unshifted (they are multiplied by `diffusion.sigma_shift`
before they meet an image). Unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from epg.config.data import DataConfig
from epg.config.evaluating import EvaluateConfig, GateConfig
from epg.config.model import DiffusionConfig, ModelConfig
from epg.config.sampling import SamplingConfig
from epg.config.training import ConsistencyConfig, DenoisingConfig, PretrainConfig
from epg.config.values import Natural, Section

_MAX_TOKENS = 65_536  # patches of an image


class Recipe(Section):
    """One experiment. `epg show-recipe NAME` prints it fully resolved."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")]
    description: str = ""
    seed: Annotated[Natural, Field(le=2**31 - 1)]
    data: DataConfig
    diffusion: DiffusionConfig = DiffusionConfig()
    model: ModelConfig
    pretrain: PretrainConfig
    denoising: DenoisingConfig
    consistency: ConsistencyConfig
    evaluate: EvaluateConfig
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _shapes(self) -> Recipe:
        if self.data.image_size % self.model.patch_size:
            raise ValueError(
                f"model.patch_size is {self.model.patch_size}: it must divide "
                f"data.image_size ({self.data.image_size})"
            )
        tokens = (self.data.image_size // self.model.patch_size) ** 2
        if tokens > _MAX_TOKENS:
            raise ValueError(
                f"model.patch_size is {self.model.patch_size}: it cuts an image of "
                f"data.image_size={self.data.image_size} into {tokens:,} tokens, at most "
                f"{_MAX_TOKENS:,}"
            )
        return self

    @model_validator(mode="after")
    def _few_steps(self) -> Recipe:
        try:
            self.sampling("consistency")
        except ValidationError as error:
            told = str(error.errors(include_url=False)[0]["ctx"]["error"])
            raise ValueError(f"consistency.sampling_{told}") from error
        return self

    @property
    def sigma_shift(self) -> float:
        """Resolution shift: image height / 64 unless the recipe says otherwise."""
        return self.diffusion.sigma_shift or self.data.image_size / 64

    @property
    def has_auxiliary_term(self) -> bool:
        """Tell whether consistency fine-tuning looks at features of the pre-trained network."""
        return self.consistency.auxiliary_weight > 0 and self.pretrain.enabled

    def sampling(self, objective: str) -> SamplingConfig:
        """How images of the `denoising` or the `consistency` model are sampled."""
        diffusion = self.diffusion
        settings: dict[str, Any] = {
            "sigma_min": diffusion.sigma_min,
            "sigma_max": diffusion.sigma_max,
            "rho": diffusion.rho,
            "sigma_shift": self.sigma_shift,
            "sigma_data": diffusion.sigma_data,
        }
        if objective == "consistency":
            return SamplingConfig(
                objective="consistency",
                steps=self.consistency.sampling_steps,
                clamp=self.consistency.clamp,
                precision=self.consistency.sampling_precision,
                **settings,
            )
        return SamplingConfig(
            objective="denoising",
            steps=self.denoising.sampling_steps,
            solver=self.denoising.solver,
            clamp=self.denoising.clamp,
            precision=self.denoising.sampling_precision,
            guidance_scale=self.denoising.guidance_scale,
            guidance_interval=self.denoising.guidance_interval,
            final_euler_step=self.denoising.final_euler_step,
            **settings,
        )

    def with_assumed_classes(self) -> Recipe:
        """Return a recipe whose costs can be told: where classes are left to the data, of one.

        Each class more is a row of the class table, `embed_dim` parameters and no computation.
        """
        if self.data.num_classes is not None:
            return self
        count = len(self.data.classes or (None,))
        return self.model_copy(update={"data": self.data.model_copy(update={"num_classes": count})})

    def encoder_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `epg.model.encoder.Encoder`."""
        return {
            "image_size": self.data.image_size,
            "patch_size": self.model.patch_size,
            "channels": self.data.channels,
            "embed_dim": self.model.embed_dim,
            "depth": self.model.depth,
            "num_heads": self.model.num_heads,
            "mlp_ratio": self.model.mlp_ratio,
        }

    def projector_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `epg.model.projector.Projector`."""
        return {
            "embed_dim": self.model.embed_dim,
            "hidden_dim": self.model.projector_hidden_dim,
            "output_dim": self.model.projector_dim,
        }

    def generator_arguments(self, dropout: float = 0.0) -> dict[str, Any]:
        """Keyword arguments of `epg.model.generator.Generator`."""
        return {
            "encoder": self.encoder_arguments(),
            "num_classes": self.data.class_count,
            "decoder_embed_dim": self.model.decoder_embed_dim or self.model.embed_dim,
            "decoder_num_heads": self.model.decoder_num_heads or self.model.num_heads,
            "dropout": dropout,
        }

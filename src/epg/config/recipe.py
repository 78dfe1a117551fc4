"""The typed recipe: one file describes one experiment, all of its stages.

Field names follow `docs/method.md`; sigmas are unshifted (they are multiplied by
`diffusion.sigma_shift` before they meet an image). Unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from epg.config.sampling import SamplingConfig
from epg.config.values import (
    AtLeastTwo,
    BelowOne,
    Betas,
    Bounds,
    Deviations,
    Drops,
    Few,
    Fraction,
    Interval,
    Jitter,
    Means,
    Natural,
    NonNegative,
    PerView,
    Positive,
    PositiveFloat,
    Range,
    Section,
    Size,
)

_MAX_TOKENS = 65_536  # patches of an image


class DataConfig(Section):
    """Where images come from and what they look like once they are stored."""

    source: str = Field(description="`digits`, or `folder:PATH` with one sub-folder per class")
    image_size: Size = Field(description="height and width in pixels")
    channels: Literal[1, 3]
    num_classes: Positive
    mean: Means = Field(description="pixel mean, 0 to 1")
    std: Deviations = Field(description="pixel deviation")
    held_out_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    samples_per_shard: Positive = 10_000
    max_bad_fraction: Fraction = Field(0.001, description="unreadable images before it stops")
    horizontal_flip: bool = True

    @model_validator(mode="after")
    def _channel_lists(self) -> DataConfig:
        for key in ("mean", "std"):
            length = len(getattr(self, key))
            if length not in (1, self.channels):
                raise ValueError(
                    f"data.{key} has {length} values, but data.channels is {self.channels}: "
                    f"give 1 value or {self.channels}"
                )
        return self


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


class AugmentationConfig(Section):
    """Two views of a clean image; strengths in torchvision's words."""

    crop_scale_min: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08
    color_jitter: Jitter = (0.4, 0.4, 0.2, 0.1)
    color_jitter_prob: Fraction = 0.8
    grayscale_prob: Fraction = 0.2
    blur_sigma: Range = (0.1, 2.0)
    blur_prob: PerView = (1.0, 0.1)
    solarize_prob: PerView = (0.0, 0.2)


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine or stepped decay."""

    steps: Positive
    batch_size: Size
    learning_rate: PositiveFloat
    betas: Betas = (0.9, 0.95)
    weight_decay: NonNegative = 0.03
    warmup_steps: Natural = 0
    decay: Literal["cosine", "steps"] = "cosine"
    decay_steps: Drops = Field(
        default_factory=dict,
        description="decay=steps: fraction of training -> factor on the learning rate from there",
    )
    grad_clip: PositiveFloat | None = Field(None, description="maximum norm, after the warm-up")
    checkpoint_every_seconds: PositiveFloat = 300.0
    log_every: Positive = 10

    @model_validator(mode="after")
    def _warmup(self) -> OptimizerConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}: it must not exceed steps ({self.steps})"
            )
        return self


class PretrainConfig(OptimizerConfig):
    """Stage 1: representation consistency (docs/method.md, section 2)."""

    num_scales_start: Positive = 20
    num_scales_end: Positive = 1280
    target_ema_decay: Fraction = 0.99
    temperature_contrastive: PositiveFloat = 0.2
    temperature_consistency: PositiveFloat = 0.1
    temperature_consistency_start: PositiveFloat = Field(
        0.2, description="tau at sigma_max at step 0; equal to the one above: constant"
    )
    contrastive_weight: NonNegative = 1.0
    consistency_weight: NonNegative = 1.0
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _scales(self) -> PretrainConfig:
        if self.num_scales_start > self.num_scales_end:
            raise ValueError(
                f"num_scales_start is {self.num_scales_start}: it must not exceed "
                f"num_scales_end ({self.num_scales_end})"
            )
        return self


class DenoisingConfig(OptimizerConfig):
    """Stage 2 as a diffusion model: weighted prediction of the clean image."""

    betas: Betas = (0.9, 0.999)
    weight_decay: NonNegative = 0.01
    grad_clip: PositiveFloat | None = Field(0.5, description="maximum norm, after the warm-up")
    sigma_log_mean: float = -1.2
    sigma_log_std: PositiveFloat = 1.6
    num_scales: AtLeastTwo = 1280
    class_dropout_prob: Fraction = 0.1
    ema_decay: Fraction = 0.9999
    ema_warmup: bool = Field(False, description="decay = min(ema_decay, (1 + k) / (10 + k))")
    sampling_steps: AtLeastTwo = 32
    guidance_scale: Annotated[float, Field(ge=1.0)] = 2.5
    guidance_interval: Interval = (0.19, 1.61)
    final_euler_step: bool = True


class ConsistencyConfig(OptimizerConfig):
    """Stage 2 as a one-step consistency model, without a diffusion teacher."""

    betas: Betas = (0.9, 0.99)
    decay: Literal["cosine", "steps"] = "steps"
    decay_steps: Drops = Field(
        {4 / 7: 0.3, 5 / 7: 0.08},  # at 400,000 and 500,000 of 700,000 steps
        description="decay=steps: fraction of training -> factor on the learning rate from there",
    )
    sigma_log_mean: float = -0.4
    sigma_log_std: PositiveFloat = 1.6
    ratio_base: Annotated[float, Field(gt=1.0)] = Field(2.0, description="q of ECT's pair law")
    steps_per_stage: Positive = Field(
        100_000, description="stage of the pair law = floor(step / steps_per_stage) + 1"
    )
    huber_c: PositiveFloat = 0.06
    auxiliary_weight: NonNegative = 1.0
    auxiliary_temperature: PositiveFloat = 0.1
    dropout: BelowOne = 0.5
    ema_decay: Fraction = 0.9999
    ema_warmup: bool = False


class SvcConfig(Section):
    """An independent judge on raw pixels: scikit-learn's SVC. For small images only."""

    gamma: PositiveFloat
    C: PositiveFloat
    pixel_max: PositiveFloat = Field(description="pixels are scaled from 0..255 to 0..pixel_max")


class EvaluateConfig(Section):
    """How generated images are judged."""

    networks: list[Literal["classifier", "inception"]] = Field(
        min_length=1,
        description="a list such as [classifier] of networks in whose features images are "
        "compared; classifier: a small one trained on the training split; inception: FID",
    )
    num_samples: Positive = 50_000
    batch_size: Size = 256
    neighbours: Few = Field(3, description="k of improved precision and recall")
    classifier_epochs: Positive = 20
    svc: SvcConfig | None = None

    @model_validator(mode="after")
    def _once_each(self) -> EvaluateConfig:
        if len(set(self.networks)) < len(self.networks):
            raise ValueError(
                f"evaluate.networks is [{', '.join(self.networks)}]: name each network once"
            )
        return self


class GateConfig(Section):
    """What a model must reach to be registered: metric name -> {min or max: value}."""

    denoising: dict[str, Bounds] = Field(default_factory=dict)
    consistency: dict[str, Bounds] = Field(default_factory=dict)


class Recipe(Section):
    """One experiment. `epg show-recipe NAME` prints it fully resolved."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
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

    @property
    def sigma_shift(self) -> float:
        """Resolution shift: image height / 64 unless the recipe says otherwise."""
        return self.diffusion.sigma_shift or self.data.image_size / 64

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
            return SamplingConfig(objective="consistency", steps=1, **settings)
        return SamplingConfig(
            objective="denoising",
            steps=self.denoising.sampling_steps,
            guidance_scale=self.denoising.guidance_scale,
            guidance_interval=self.denoising.guidance_interval,
            final_euler_step=self.denoising.final_euler_step,
            **settings,
        )

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
            "num_classes": self.data.num_classes,
            "decoder_embed_dim": self.model.decoder_embed_dim or self.model.embed_dim,
            "decoder_num_heads": self.model.decoder_num_heads or self.model.num_heads,
            "dropout": dropout,
        }

"""What a recipe says of each training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epg.config.data import AugmentationConfig
from epg.config.sampling import Clamp, SamplingNumbers, Solver
from epg.config.values import (
    AtLeastTwo,
    BelowOne,
    Betas,
    Drops,
    EmaDecay,
    Few,
    Fraction,
    Interval,
    Natural,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    Size,
)

#: Where a term's keys come from: a moving average of the network, or the network itself.
Target = Literal["ema", "stop-gradient"]
Numbers = Literal["auto", "float32", "bfloat16", "float16"]


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
        description="decay=steps: step, or fraction of training -> factor on the learning rate "
        "from there",
    )
    grad_clip: PositiveFloat | None = Field(None, description="maximum norm, after the warm-up")
    gradient_accumulation: Positive = Field(
        1, description="parts of each batch that are computed one after the other, to save memory"
    )
    precision: Numbers = Field(
        "auto", description="of the network's passes; auto: 16 bits on a GPU, float32 on a CPU"
    )
    activation_checkpointing: bool = Field(
        False, description="compute blocks again for their gradient instead of keeping them"
    )
    checkpoint_every_seconds: PositiveFloat = 300.0
    log_every: Positive = 10

    @model_validator(mode="after")
    def _warmup(self) -> OptimizerConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}: it must not exceed steps ({self.steps})"
            )
        return self

    @model_validator(mode="after")
    def _parts(self) -> OptimizerConfig:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}: it must divide "
                f"batch_size ({self.batch_size})"
            )
        return self

    def _whole_batches(self, why: str) -> None:
        """Refuse parts where the loss compares all images of a batch."""
        if self.gradient_accumulation != 1:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}: it must be 1, since {why} "
                "compares all images of a batch; set activation_checkpointing to save memory"
            )


class PretrainConfig(OptimizerConfig):
    """Stage 1: representation consistency (docs/method.md, section 2)."""

    enabled: bool = Field(
        True,
        description="false: from scratch; fresh weights of the seed take the encoder's place, and "
        "the auxiliary term of consistency fine-tuning is left out",
    )
    num_scales_start: Positive = 20
    num_scales_end: Positive = 1280
    contrastive_target: Target = Field(
        "ema", description="whose features of the other view are the keys"
    )
    consistency_target: Target = Field(
        "stop-gradient", description="whose features of the cleaner neighbour are the keys"
    )
    target_ema_decay: Fraction = 0.99
    target_batch_norm: Literal["batch", "stale"] = Field(
        "batch",
        description="the EMA target's BatchNorm: statistics of its own batch, or buffers that "
        "are never updated (mean 0, variance 1)",
    )
    temperature_contrastive: PositiveFloat = 0.2
    temperature_consistency: PositiveFloat = 0.1
    temperature_consistency_start: PositiveFloat = Field(
        0.2, description="tau at sigma_max at step 0; equal to the one above: constant"
    )
    contrastive_weight: NonNegative = 1.0
    consistency_weight: NonNegative = 1.0
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _compares(self) -> PretrainConfig:
        self._whole_batches("the contrastive loss")
        return self

    @model_validator(mode="after")
    def _scales(self) -> PretrainConfig:
        if self.num_scales_start > self.num_scales_end:
            raise ValueError(
                f"num_scales_start is {self.num_scales_start}: it must not exceed "
                f"num_scales_end ({self.num_scales_end})"
            )
        return self


class FinetuneConfig(OptimizerConfig):
    """What both objectives of stage 2 share."""

    encoder_trainable: bool = Field(True, description="false: the encoder stays as it came")
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="factor on the learning rate per encoder block, from the last to the first",
    )
    ema_decay: EmaDecay = Field(
        0.9999,
        description="moving average of the weights; a list keeps one average for each rate",
    )
    sampling_ema: Fraction | None = Field(
        None,
        description="rate of the average that is judged and registered; default: the first",
    )
    ema_warmup: bool = Field(False, description="decay = min(ema_decay, (1 + k) / (10 + k))")

    @property
    def ema_decays(self) -> tuple[float, ...]:
        """Every rate at which an average of the weights is kept; the main one first."""
        return self.ema_decay if isinstance(self.ema_decay, tuple) else (self.ema_decay,)

    @property
    def averages(self) -> dict[str, float]:
        """Kind of the weight file of each average -> its rate; `generator` is the main one."""
        main, *others = self.ema_decays
        return {"generator": main, **{f"generator-ema-{decay:g}": decay for decay in others}}

    @property
    def judged(self) -> str:
        """Kind of the weight file that is judged and registered."""
        kinds = {decay: kind for kind, decay in self.averages.items()}
        return kinds[self.ema_decays[0] if self.sampling_ema is None else self.sampling_ema]

    @model_validator(mode="after")
    def _kept(self) -> FinetuneConfig:
        if self.sampling_ema is not None and self.sampling_ema not in self.ema_decays:
            kept = ", ".join(f"{decay:g}" for decay in self.ema_decays)
            raise ValueError(
                f"sampling_ema is {self.sampling_ema:g}: the training keeps averages at {kept} "
                "(a list in ema_decay keeps several)"
            )
        return self


class DenoisingConfig(FinetuneConfig):
    """Stage 2 as a diffusion model: weighted prediction of the clean image."""

    betas: Betas = (0.9, 0.999)
    weight_decay: NonNegative = 0.01
    grad_clip: PositiveFloat | None = Field(0.5, description="maximum norm, after the warm-up")
    sigma_log_mean: float = -1.2
    sigma_log_std: PositiveFloat = 1.6
    num_scales: AtLeastTwo = 1280
    class_dropout_prob: Fraction = 0.1
    sampling_steps: AtLeastTwo = 32
    guidance_scale: Annotated[float, Field(ge=1.0)] = 2.5
    guidance_interval: Interval = (0.19, 1.61)
    final_euler_step: bool = True
    solver: Solver = "heun"
    clamp: Clamp = "valid-range"
    sampling_precision: SamplingNumbers = Field(
        "float32", description="of the network's passes when images are sampled"
    )


class ConsistencyConfig(FinetuneConfig):
    """Stage 2 as a one-step consistency model, without a diffusion teacher."""

    betas: Betas = (0.9, 0.99)
    decay: Literal["cosine", "steps"] = "steps"
    decay_steps: Drops = Field(
        {4 / 7: 0.3, 5 / 7: 0.08},  # at 400,000 and 500,000 of 700,000 steps
        description="decay=steps: step, or fraction of training -> factor on the learning rate "
        "from there",
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
    auxiliary_projector: bool = Field(
        True, description="whether the auxiliary term looks at features after the frozen projector"
    )
    dropout: BelowOne = 0.5
    sampling_steps: Few = Field(1, description="evaluations of the network per image")
    clamp: Clamp = "valid-range"
    sampling_precision: SamplingNumbers = Field(
        "float32", description="of the network's passes when images are sampled"
    )

    @model_validator(mode="after")
    def _compares(self) -> ConsistencyConfig:
        if self.auxiliary_weight:
            self._whole_batches("the auxiliary term (auxiliary_weight)")
        return self

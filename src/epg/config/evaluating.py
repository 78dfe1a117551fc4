"""What a recipe says of judging and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from epg.config.values import Bounds, Few, Positive, PositiveFloat, Section, Size


class SvcConfig(Section):
    """An independent judge on raw pixels: scikit-learn's SVC. For small images only."""

    gamma: PositiveFloat
    C: PositiveFloat
    pixel_max: PositiveFloat = Field(description="pixels are scaled from 0..255 to 0..pixel_max")
    train_images: Positive | None = Field(
        None, description="real images that it is fitted on; default: all of the training split"
    )


class EvaluateConfig(Section):
    """How generated images are judged."""

    networks: list[Literal["classifier", "inception", "dinov2"]] = Field(
        min_length=1,
        description="a list such as [classifier] of networks in whose features images are "
        "compared; classifier: a small one trained on the training split; inception: FID; "
        "dinov2: self-supervised features",
    )
    num_samples: Positive = 50_000
    batch_size: Size = 256
    neighbours: Few = Field(3, description="k of improved precision and recall")
    classifier_epochs: Positive = 20
    svc: SvcConfig | None = None
    labels: Literal["balanced", "random"] = Field(
        "balanced", description="classes by turns, or each drawn at random"
    )
    reference: Literal["train", "held-out"] = Field(
        "held-out",
        description="real images that generated ones are compared with; papers use those that "
        "were trained on",
    )
    reference_file: str | None = Field(
        None,
        description="ADM's statistics file in place of that split, for Inception: a path, an "
        "object of the store of the runs, or a URI",
    )
    few: bool = Field(False, description="take no more images than a network has features, too")
    fid_infinity: bool = Field(False, description="also measure FID without its bias")

    @model_validator(mode="after")
    def _for_inception(self) -> EvaluateConfig:
        if self.reference_file is not None and "inception" not in self.networks:
            raise ValueError(
                "evaluate.reference_file holds statistics of Inception, which is not among "
                f"evaluate.networks ([{', '.join(self.networks)}]): add it, or leave the file out"
            )
        return self

    @model_validator(mode="after")
    def _once_each(self) -> EvaluateConfig:
        if len(set(self.networks)) < len(self.networks):
            raise ValueError(
                f"evaluate.networks is [{', '.join(self.networks)}]: name each network once"
            )
        return self


class GateConfig(Section):
    """What a model must reach to be registered: metric name -> {min, max or champion: value}."""

    floor: bool = Field(
        True,
        description="an objective without bounds must be better than chance; false: it need not",
    )

    denoising: dict[str, Bounds] = Field(default_factory=dict)
    consistency: dict[str, Bounds] = Field(default_factory=dict)

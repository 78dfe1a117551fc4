"""How images are sampled: one value from the recipe to the sampler and into the weights' file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from epg.config import Objective
from epg.config.values import Interval, Levels, Positive, PositiveFloat, Section
from epg.errors import UserError

#: How the probability flow of a diffusion model is integrated.
Solver = Literal["heun", "euler"]
#: Where denoised estimates are cut off: at what black and white become, at [-1, 1], or nowhere.
Clamp = Literal["valid-range", "unit", "none"]

#: Numbers in which the network's passes are computed.
SamplingNumbers = Literal["float32", "bfloat16", "float16"]


class SamplingConfig(Section):
    """Everything that a sampler is told; sigmas are unshifted.

    `Recipe.sampling` makes it, `diffusion/plan.py` turns it into the levels that are visited.
    """

    objective: Objective
    steps: Positive = Field(
        description="noise levels of Heun's method, or evaluations of a consistency model"
    )
    sigma_min: PositiveFloat
    sigma_max: PositiveFloat
    rho: PositiveFloat
    sigma_shift: PositiveFloat = Field(description="factor from these sigmas to actual levels")
    sigma_data: PositiveFloat
    solver: Solver = Field("heun", description="of a diffusion model: second order, or first")
    clamp: Clamp = Field(
        "valid-range", description="bounds of every estimate: black and white, [-1, 1], or none"
    )
    precision: SamplingNumbers = Field(
        "float32", description="of the network's passes; steps are taken in float32"
    )
    guidance_scale: Annotated[float, Field(ge=1.0)] = Field(1.0, description="1 is no guidance")
    guidance_interval: Interval = Field(
        (0.19, 1.61), description="guided where low < sigma <= high"
    )
    final_euler_step: bool = Field(True, description="go on from sigma_min to 0")
    intermediate_sigmas: Levels = Field(
        (0.8, 2.5, 0.3, 10.0),
        description="levels that a consistency model's further steps start from, taken in this "
        "order as steps are added, visited from high to low",
    )

    @model_validator(mode="after")
    def _possible(self) -> SamplingConfig:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min is {self.sigma_min}: it must be below sigma_max ({self.sigma_max})"
            )
        if self.objective == "denoising":
            if self.steps < 2:
                raise ValueError(
                    f"steps is {self.steps}: a diffusion model takes 2 or more noise levels"
                )
            return self
        if self.guidance_scale != 1.0:
            raise ValueError(
                f"guidance_scale is {self.guidance_scale}: a consistency model is trained without "
                "label dropout and takes no guidance; leave it out"
            )
        if self.solver != "heun":
            raise ValueError(
                f"solver is {self.solver!r}: a consistency model jumps and has none; leave it out"
            )
        most = len(self.intermediate_sigmas) + 1
        if self.steps > most:
            raise ValueError(f"steps is {self.steps}: a consistency model takes 1 to {most}")
        for sigma in self.revisited:
            if not self.sigma_min < sigma < self.sigma_max:
                raise ValueError(
                    f"intermediate_sigmas has {sigma}: it must lie between sigma_min "
                    f"({self.sigma_min}) and sigma_max ({self.sigma_max})"
                )
        return self

    @property
    def revisited(self) -> tuple[float, ...]:
        """Levels after the first that a consistency model's sampler visits, from high to low."""
        return tuple(sorted(self.intermediate_sigmas[: self.steps - 1], reverse=True))

    def changed(self, **changes: Any) -> SamplingConfig:
        """Return a checked copy with other values; None leaves a value as it is.

        Raises:
            UserError: one line with the setting, its value and what is allowed.
        """
        wanted = {key: value for key, value in changes.items() if value is not None}
        return self.checked({**self.model_dump(), **wanted})

    @classmethod
    def checked(cls, content: Any) -> SamplingConfig:
        """Return settings from what a weights' file or a caller gives.

        Raises:
            UserError: one line with the setting, its value and what is allowed.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "value_error" and not key:
                raise UserError(str(first["ctx"]["error"])) from error
            reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
            raise UserError(f"{key} is {first['input']!r}: {reason.lower()}") from error

"""Recipes: their types, and how they are read."""

from typing import Literal, get_args

#: What stage 2 trains: a diffusion model, or a one-step consistency model.
Objective = Literal["denoising", "consistency"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

"""What a recipe's models cost, in closed form: no weights and no PyTorch."""

from __future__ import annotations

from typing import Any

from epg.config import OBJECTIVES
from epg.config.recipe import Recipe
from epg.diffusion.plan import evaluations, sampling_steps
from epg.model.flops import (
    encoder_cost,
    encoder_parameters,
    generator_cost,
    generator_parameters,
    projector_cost,
    projector_parameters,
)


def costs(recipe: Recipe) -> dict[str, float | int]:
    """Return parameters, GMACs, GFLOPs and evaluations per image of a recipe's models.

    One multiply-accumulate is one MAC and two FLOPs. `gmacs_without_attention` is of the linear
    layers alone; `gmacs_paper` adds 5 per LayerNorm element, as the paper does. Products per image
    are in TMACs.
    """
    arguments, projector = recipe.generator_arguments(), recipe.projector_arguments()
    encoder, generator = encoder_cost(arguments["encoder"]), generator_cost(arguments)
    nfe = {
        objective: evaluations(sampling_steps(recipe.sampling(objective)))
        for objective in OBJECTIVES
    }
    return {
        "parameters_encoder": encoder_parameters(arguments["encoder"]),
        "parameters_projector": projector_parameters(projector),
        "parameters_generator": generator_parameters(arguments),
        "gmacs_encoder": encoder.gmacs,
        "gmacs_projector": projector_cost(projector).gmacs,
        "gmacs": generator.gmacs,
        "gmacs_without_attention": generator.gmacs_without_attention,
        "gmacs_paper": generator.gmacs_paper,
        "gflops": generator.gflops,
        **{f"nfe_{objective}": count for objective, count in nfe.items()},
        **{
            f"tmacs_per_image_{objective}": generator.gmacs * count / 1e3
            for objective, count in nfe.items()
        },
    }


def generators(recipe: Recipe) -> list[dict[str, Any]]:
    """Return what each generator of a recipe costs, one row per objective, for JSON.

    `gmacs_forward` counts attention's products, `gmacs_forward_without_attention` the linear
    layers alone; `gmacs_paper` adds 5 per LayerNorm element to the latter. GFLOPs are 2 per MAC.

    Source: docs/method.md, 7.
    """
    arguments = recipe.generator_arguments()
    cost, parameters = generator_cost(arguments), generator_parameters(arguments)
    rows = []
    for objective in OBJECTIVES:
        nfe = evaluations(sampling_steps(recipe.sampling(objective)))
        rows.append(
            {
                "objective": objective,
                "params": parameters,
                "gmacs_forward": cost.gmacs,
                "gmacs_forward_without_attention": cost.gmacs_without_attention,
                "gmacs_paper": cost.gmacs_paper,
                "gflops_forward": cost.gflops,
                "nfe": nfe,
                "gmacs_per_image": cost.gmacs * nfe,
                "gflops_per_image": cost.gflops * nfe,
            }
        )
    return rows

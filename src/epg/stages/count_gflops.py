"""Stage `count-gflops`: parameters and compute from the recipe alone."""

from __future__ import annotations

from typing import Any

from epg.config.recipe import Recipe
from epg.stages.entry import open_run, stage_entry
from epg.stages.run import Outputs, Run, StageRecord, perform
from epg.telemetry.progress import StageReporter

STAGE = "count-gflops"


def costs(recipe: Recipe) -> dict[str, float | int]:
    """Return parameters, GMACs, GFLOPs and evaluations per image of a recipe's models.

    One multiply-accumulate is one MAC and two FLOPs. `gmacs_without_attention` leaves out the
    attention products, which is how the paper counts. Products per image are in TMACs.
    """
    from epg.diffusion.plan import heun_nfe
    from epg.model.flops import (
        encoder_cost,
        encoder_parameters,
        generator_cost,
        generator_parameters,
    )

    arguments = recipe.generator_arguments()
    encoder, generator = encoder_cost(arguments["encoder"]), generator_cost(arguments)
    settings = recipe.denoising
    nfe = heun_nfe(
        settings.sampling_steps,
        recipe.diffusion.sigma_min,
        recipe.diffusion.sigma_max,
        recipe.diffusion.rho,
        settings.guidance_scale,
        (settings.guidance_interval[0], settings.guidance_interval[1]),
        settings.final_euler_step,
    )
    return {
        "parameters_encoder": encoder_parameters(arguments["encoder"]),
        "parameters_generator": generator_parameters(arguments),
        "gmacs_encoder": encoder.gmacs,
        "gmacs": generator.gmacs,
        "gmacs_without_attention": generator.gmacs_without_attention,
        "gflops": generator.gflops,
        "nfe_denoising": nfe,
        "nfe_consistency": 1,
        "tmacs_per_image_denoising": generator.gmacs * nfe / 1e3,
        "tmacs_per_image_consistency": generator.gmacs / 1e3,
    }


def count_gflops(run: Run) -> StageRecord:
    """Store the costs of the run's models."""
    config = {"costs": costs(run.recipe)}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        del reporter
        outputs.metrics.update(config["costs"])

    return perform(run, STAGE, config=config, inputs={}, work=work, tells="costs")


@stage_entry
def count_gflops_component(
    metrics: Any, recipe: str, overrides: dict[str, Any], store: str, run_name: str
) -> None:
    """Run the stage inside a pipeline."""
    record = count_gflops(open_run(recipe, overrides, store, run_name))
    for name, value in record.metrics.items():
        metrics.log_metric(name, float(value))

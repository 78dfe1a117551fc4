"""Stage `count-gflops`: parameters and compute from the recipe alone."""

from __future__ import annotations

from typing import Any

from epg.config.recipe import Recipe
from epg.runs.entry import open_run, stage_entry
from epg.runs.perform import perform
from epg.runs.record import Outputs, StageRecord
from epg.runs.run import Run
from epg.stages.catalog import STAGES
from epg.telemetry.progress import StageReporter

STAGE = STAGES["count-gflops"]


def costs(recipe: Recipe) -> dict[str, float | int]:
    """Return parameters, GMACs, GFLOPs and evaluations per image of a recipe's models.

    One multiply-accumulate is one MAC and two FLOPs. `gmacs_without_attention` leaves out the
    attention products, which is how the paper counts. Products per image are in TMACs.
    """
    from epg.diffusion.plan import evaluations, sampling_steps
    from epg.model.flops import (
        encoder_cost,
        encoder_parameters,
        generator_cost,
        generator_parameters,
    )

    arguments = recipe.generator_arguments()
    encoder, generator = encoder_cost(arguments["encoder"]), generator_cost(arguments)
    nfe = {
        objective: evaluations(sampling_steps(recipe.sampling(objective)))
        for objective in ("denoising", "consistency")
    }
    return {
        "parameters_encoder": encoder_parameters(arguments["encoder"]),
        "parameters_generator": generator_parameters(arguments),
        "gmacs_encoder": encoder.gmacs,
        "gmacs": generator.gmacs,
        "gmacs_without_attention": generator.gmacs_without_attention,
        "gflops": generator.gflops,
        **{f"nfe_{objective}": count for objective, count in nfe.items()},
        **{
            f"tmacs_per_image_{objective}": generator.gmacs * count / 1e3
            for objective, count in nfe.items()
        },
    }


def count_gflops(run: Run) -> StageRecord:
    """Store the costs of the run's models."""
    config = {"costs": costs(run.recipe)}

    def work(reporter: StageReporter, outputs: Outputs) -> None:
        del reporter
        outputs.metrics.update(config["costs"])

    return perform(run, STAGE, config=config, inputs={}, work=work)


@stage_entry
def count_gflops_component(
    metrics: Any, recipe: str, overrides: dict[str, Any], store: str, run_name: str
) -> None:
    """Run the stage inside a pipeline."""
    record = count_gflops(open_run(recipe, overrides, store, run_name))
    for name, value in record.metrics.items():
        metrics.log_metric(name, float(value))

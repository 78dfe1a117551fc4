"""Sampling settings of an existing run's generator, tried on few images: guidance, steps, averages.

    shard, reference-statistics, pretrain, finetune (records of the run) -> sweep; report at the end

The steps that made the generator hand their stored results on (`pipelines/trained.py`). The sweep
tells the best settings as overrides of the recipe; `epg_evaluate` with them measures the final
figure, on images of other seeds.
"""

from kfp import dsl

from components.report.component import report
from components.sweep.component import sweep
from pipelines import policy
from pipelines.trained import trained


@dsl.pipeline(
    name="epg-sweep",
    description="Find the best sampling settings of an existing run's generator.",
)
@policy.on_a_site
def epg_sweep(
    recipe: str = "digits",
    overrides: dict = {},  # noqa: B006 - compiled into the default, never shared
    run_name: str = "digits",
    store: str = "s3://epg/runs",
    objective: str = "denoising",
    grid: dict = {"guidance_scale": [1.0, 1.5, 2.0, 2.5, 3.0]},  # noqa: B006
    num_samples: int = 0,
    figure: str = "",
    site: policy.Site = policy.Site(),  # noqa: B008 - frozen
) -> None:
    """Try sampling settings of one generator of a run.

    Args:
        recipe: the run's recipe: name of a packaged one (digits), or a whole recipe as YAML text.
        overrides: dotted key to value, laid over the recipe: the run's own, and what is judged
            otherwise, as in {"evaluate.num_samples": 5000}.
        run_name: name of the run whose generator is judged.
        store: root of the object store: s3://BUCKET/PREFIX, minio://HOST:PORT/BUCKET/PREFIX or
            a folder that all steps share.
        objective: which generator: denoising or consistency.
        grid: setting to values, as in {"guidance_scale": [1, 2, 3], "steps": [18, 32]}; also
            guidance_interval (pairs) and ema; every combination is tried.
        num_samples: images of each setting; 0 is 10,000, or the recipe's where it has fewer.
        figure: which is to be least; empty is FID where the recipe measures it.
        site: where and how the steps run; each of its fields is a parameter.
    """
    common = {"recipe": recipe, "overrides": overrides, "store": store, "run_name": run_name}
    page = site.runs(report(**common), "report")
    with dsl.ExitHandler(page, name="stages"):
        run = trained(site, objective, common)
        site.runs(
            sweep(
                statistics=run.statistics,
                generator=run.generator,
                objective=objective,
                grid=grid,
                num_samples=num_samples,
                figure=figure,
                **common,
            ),
            "sweep",
        )

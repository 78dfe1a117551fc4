"""An existing generator of a run, judged again: other samples, other guidance, other bars.

    shard, pretrain, finetune (records of the run) -> reference-statistics -> evaluate -> gate
    -> register; report at the end

The steps that made the generator hand their stored results on (`pipelines/trained.py`). Put what is
to be judged otherwise into `overrides`, as in {"evaluate.num_samples": 5000}.
"""

from kfp import dsl

from components.evaluate.component import evaluate
from components.gate.component import gate
from components.register.component import register
from components.report.component import report
from pipelines import policy
from pipelines.trained import trained


@dsl.pipeline(
    name="epg-evaluate",
    description="Evaluate, gate and register the trained generator of an existing run again.",
)
@policy.on_a_site
def epg_evaluate(
    recipe: str = "digits",
    overrides: dict = {},  # noqa: B006 - compiled into the default, never shared
    run_name: str = "digits",
    store: str = "s3://epg/runs",
    objective: str = "denoising",
    site: policy.Site = policy.Site(),  # noqa: B008 - frozen
) -> None:
    """Judge one generator of a run again.

    Args:
        recipe: the run's recipe: name of a packaged one (digits), or a whole recipe as YAML text.
        overrides: dotted key to value, laid over the recipe: the run's own, and what is judged
            otherwise, as in {"evaluate.num_samples": 5000}.
        run_name: name of the run whose generator is judged.
        store: root of the object store: s3://BUCKET/PREFIX, minio://HOST:PORT/BUCKET/PREFIX or
            a folder that all steps share.
        objective: which generator: denoising or consistency.
        site: where and how the steps run; each of its fields is a parameter.
    """
    common = {"recipe": recipe, "overrides": overrides, "store": store, "run_name": run_name}
    page = site.runs(report(**common), "report")
    with dsl.ExitHandler(page, name="stages"):
        run = trained(site, objective, common)
        metrics = site.runs(
            evaluate(
                shards=run.shards,
                statistics=run.statistics,
                generator=run.generator,
                objective=objective,
                **common,
            ),
            "evaluate",
        ).outputs["metrics"]
        verdict = site.runs(gate(metrics=metrics, objective=objective, **common), "gate")
        with dsl.If(verdict.output == "pass", name="passed"):
            site.runs(
                register(generator=run.generator, metrics=metrics, objective=objective, **common),
                "register",
            )

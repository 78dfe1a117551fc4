"""The whole of EPG as one pipeline, from raw images to registered models and a report.

    shard -> reference-statistics, pretrain -> finetune-* -> evaluate-* -> gate-* -> register-*
    shard-plan -> shard-part x n - 1, beside shard, where the shards are written in n parts

Both objectives are branches on a pipeline parameter; a branch that is not wanted does not run.
No task outside a condition may consume what one inside made, so the report is the exit handler:
it reads the run's results from the store, and also tells of a run that failed. Conditions look
at pipeline parameters and at single return values only: the local runner takes no others.

No task waits for the pods that help `shard`: it gathers what they leave in the store, and waits for
them there. A step after a loop that runs over nothing, or after a condition that does not hold,
would leave Kubeflow with a group that never ends, or not run at all.
"""

from kfp import dsl

from components.count_gflops.component import count_gflops
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.gate.component import gate
from components.pretrain.component import pretrain
from components.reference_statistics.component import reference_statistics
from components.register.component import register
from components.report.component import report
from components.shard.component import shard
from components.shard_part.component import shard_part
from components.shard_plan.component import shard_plan
from pipelines import policy

HELPERS = 8  # pods beside `shard` at a time: a wider loop waits for the store, or for Kubeflow


@dsl.pipeline(
    name="epg-full",
    description="Shard, pre-train, fine-tune, evaluate, gate and register pixel-space generators.",
)
@policy.on_a_site
def epg_full(
    recipe: str = "digits",
    overrides: dict = {},  # noqa: B006 - compiled into the default, never shared
    run_name: str = "digits",
    store: str = "s3://epg/runs",
    denoising: bool = True,
    consistency: bool = True,
    begin_at: str = "",
    shard_parts: int = 1,
    site: policy.Site = policy.Site(),  # noqa: B008 - frozen
) -> None:
    """Run all stages of one recipe.

    Args:
        recipe: name of a packaged recipe (digits), or a whole recipe as YAML text.
        overrides: dotted key to value, laid over the recipe, as in {"pretrain.steps": 100}.
        run_name: name of the run; the same name again resumes it and reuses finished stages.
        store: root of the object store: s3://BUCKET/PREFIX, minio://HOST:PORT/BUCKET/PREFIX or
            a folder that all steps share.
        denoising: train, evaluate and register the diffusion model.
        consistency: train, evaluate and register the one-step consistency model.
        begin_at: a stage, such as pretrain, whose results and all that were made of them are
            thrown away first; empty for none. `epg submit --from` sets it and takes no results
            from Kubeflow's cache, which does not know of it.
        shard_parts: how many pods write the shards, nine at most at a time; the step shard is one.
        site: where and how the steps run; each of its fields is a parameter.
    """
    common = {"recipe": recipe, "overrides": overrides, "store": store, "run_name": run_name}

    def branch(objective: str) -> None:
        generator = site.runs(
            finetune(
                shards=shards.outputs["shards"],
                encoder=encoder.outputs["encoder"],
                objective=objective,
                **common,
            ),
            f"finetune-{objective}",
        ).outputs["generator"]
        metrics = site.runs(
            evaluate(
                shards=shards.outputs["shards"],
                statistics=statistics.outputs["statistics"],
                generator=generator,
                objective=objective,
                **common,
            ),
            f"evaluate-{objective}",
        ).outputs["metrics"]
        verdict = site.runs(
            gate(metrics=metrics, objective=objective, **common), f"gate-{objective}"
        )
        with dsl.If(verdict.output == "pass", name=f"passed-{objective}"):
            site.runs(
                register(generator=generator, metrics=metrics, objective=objective, **common),
                f"register-{objective}",
            )

    page = site.runs(report(**common), "report")
    with dsl.ExitHandler(page, name="stages"):
        shards = site.runs(shard(begin_at=begin_at, shard_parts=shard_parts, **common), "shard")
        site.runs(count_gflops(**common), "count-gflops").after(shards)  # after `begin_at`
        statistics = site.runs(
            reference_statistics(shards=shards.outputs["shards"], **common), "reference-statistics"
        )
        encoder = site.runs(pretrain(shards=shards.outputs["shards"], **common), "pretrain")
        with dsl.If(denoising == True, name="denoising"):  # noqa: E712 - a comparison in the IR
            branch("denoising")
        with dsl.If(consistency == True, name="consistency"):  # noqa: E712
            branch("consistency")
        with dsl.If(shard_parts > 1, name="shard-parts"):
            others = site.runs(shard_plan(shard_parts=shard_parts, **common), "shard-plan").output
            with dsl.ParallelFor(others, name="parts", parallelism=HELPERS) as part:
                site.runs(shard_part(part=part, **common), "shard-part")

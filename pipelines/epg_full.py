"""The whole of EPG as one pipeline, from raw images to registered models and a report.

    shard -> reference-statistics, pretrain -> finetune-* -> evaluate-* -> gate-* -> register-*

Both objectives are branches on a pipeline parameter; a branch that is not wanted does not run.
No task outside a condition may consume what one inside made, so the report is the exit handler:
it reads the run's results from the store, and also tells of a run that failed. Conditions look
at pipeline parameters and at single return values only: the local runner takes no others.
"""

from kfp import dsl

from components import TOOLS_IMAGE, TRAIN_IMAGE
from components.count_gflops.component import count_gflops
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.gate.component import gate
from components.pretrain.component import pretrain
from components.reference_statistics.component import reference_statistics
from components.register.component import register
from components.report.component import report
from components.shard.component import shard
from pipelines import policy


@dsl.pipeline(
    name="epg-full",
    description="Shard, pre-train, fine-tune, evaluate, gate and register pixel-space generators.",
)
def epg_full(
    recipe: str = "digits",
    overrides: dict = {},  # noqa: B006 - compiled into the default, never shared
    run_name: str = "digits",
    store: str = "s3://epg/runs",
    denoising: bool = True,
    consistency: bool = True,
    image: str = TRAIN_IMAGE,
    tools_image: str = TOOLS_IMAGE,
    cpu_request: str = "500m",
    cpu: str = "2000m",
    memory: str = "8Gi",
    accelerator_type: str = "nvidia.com/gpu",
    accelerator_count: str = "0",
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
    store_credentials: str = "epg-s3",
    begin_at: str = "",
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
        image: container image of the steps that compute (torch).
        tools_image: container image of the others (no torch): shard, count-gflops, gate, register
            and report.
        cpu_request: CPU that a node must have free for a computing step, at most cpu.
        cpu: CPU limit of a computing step, as in 2000m.
        memory: memory of a computing step, request and limit, as in 8Gi.
        accelerator_type: resource name of the accelerator of the computing steps.
        accelerator_count: accelerators of a computing step, as text; 0 is none.
        node_selector: labels of the nodes that may run the steps, as in {"pool": "gpu"}.
        tolerations: list of Kubernetes tolerations of the steps, for tainted nodes.
        store_credentials: name of the Secret in the run's namespace whose keys accesskey and
            secretkey open the object store. The ConfigMap epg-site has the addresses: endpoint,
            region and secure of the store, pushgateway. Both may be absent.
        begin_at: a stage, such as pretrain, whose results and all that were made of them are
            thrown away first; empty for none. `epg submit --from` sets it and takes no results
            from Kubeflow's cache, which does not know of it.
    """
    common = {"recipe": recipe, "overrides": overrides, "store": store, "run_name": run_name}

    site = policy.Site(
        image,
        tools_image,
        cpu_request,
        cpu,
        memory,
        accelerator_type,
        accelerator_count,
        node_selector,
        tolerations,
        store_credentials,
    )

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
        shards = site.runs(shard(begin_at=begin_at, **common), "shard")
        site.runs(count_gflops(**common), "count-gflops").after(shards)  # after `begin_at`
        statistics = site.runs(
            reference_statistics(shards=shards.outputs["shards"], **common), "reference-statistics"
        )
        encoder = site.runs(pretrain(shards=shards.outputs["shards"], **common), "pretrain")
        with dsl.If(denoising == True, name="denoising"):  # noqa: E712 - a comparison in the IR
            branch("denoising")
        with dsl.If(consistency == True, name="consistency"):  # noqa: E712
            branch("consistency")

"""Sampling settings of an existing run's generator, tried on few images: guidance, steps, averages.

    shard, reference-statistics, pretrain, finetune (records of the run) -> sweep; report at the end

As in `epg_evaluate`, the steps that made the generator hand their stored results on. The sweep
tells the best settings as overrides of the recipe; `epg_evaluate` with them measures the final
figure, on images of other seeds.
"""

from kfp import dsl

from components import TOOLS_IMAGE, TRAIN_IMAGE
from components.finetune.component import finetune
from components.pretrain.component import pretrain
from components.reference_statistics.component import reference_statistics
from components.report.component import report
from components.shard.component import shard
from components.sweep.component import sweep
from pipelines import policy


@dsl.pipeline(
    name="epg-sweep",
    description="Find the best sampling settings of an existing run's generator.",
)
def epg_sweep(
    recipe: str = "digits",
    overrides: dict = {},  # noqa: B006 - compiled into the default, never shared
    run_name: str = "digits",
    store: str = "s3://epg/runs",
    objective: str = "denoising",
    grid: dict = {"guidance_scale": [1.0, 1.5, 2.0, 2.5, 3.0]},  # noqa: B006
    num_samples: int = 0,
    figure: str = "",
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
        image: container image of the steps that compute (torch).
        tools_image: container image of the others (no torch): shard, gate, register and report.
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
    page = site.runs(report(**common), "report")
    with dsl.ExitHandler(page, name="stages"):
        shards = site.runs(shard(begin_at="", **common), "shard").outputs["shards"]
        statistics = site.runs(
            reference_statistics(shards=shards, **common), "reference-statistics"
        ).outputs["statistics"]
        encoder = site.reusing(pretrain(shards=shards, **common), "pretrain").outputs["encoder"]
        generator = site.reusing(
            finetune(shards=shards, encoder=encoder, objective=objective, **common), "finetune"
        ).outputs["generator"]
        site.judging(
            sweep(
                statistics=statistics,
                generator=generator,
                objective=objective,
                grid=grid,
                num_samples=num_samples,
                figure=figure,
                **common,
            ),
            "sweep",
        )

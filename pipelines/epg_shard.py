"""The shards of a run, written by several pods at a time.

    shard-part x n

Each pod writes every n-th shard and a note beside it. Afterwards `epg_full` under the same run
name gathers them in its first step, and writes what is still missing: a part that failed, or all of
it where none has run. So this pipeline may be left out, stopped, or run again with another n. It is
one of its own because no task outside a loop may wait for it.
"""

from kfp import dsl

from components import TOOLS_IMAGE
from components.shard_part.component import shard_part
from pipelines import policy

PODS = 4  # at a time: a wider loop waits for the store, or for Kubeflow


@dsl.pipeline(
    name="epg-shard",
    description="Write the shards of a run by several pods at a time, before epg-full.",
)
def epg_shard(
    recipe: str = "digits",
    overrides: dict = {},  # noqa: B006 - compiled into the default, never shared
    run_name: str = "digits",
    store: str = "s3://epg/runs",
    shard_parts: list = ["1/2", "2/2"],  # noqa: B006
    tools_image: str = TOOLS_IMAGE,
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
    store_credentials: str = "epg-s3",
) -> None:
    """Write the shards of a run in parts.

    Args:
        recipe: the run's recipe: name of a packaged one (digits), or a whole recipe as YAML text.
        overrides: dotted key to value, laid over the recipe; the same as of epg_full.
        run_name: name of the run that epg_full goes on with.
        store: root of the object store: s3://BUCKET/PREFIX, minio://HOST:PORT/BUCKET/PREFIX or
            a folder that all steps share.
        shard_parts: the parts, a pod for each and four at a time, as in ["1/3", "2/3", "3/3"].
        tools_image: container image of the steps; one with torch for data.crop=fast.
        node_selector: labels of the nodes that may run the steps, as in {"pool": "cpu"}.
        tolerations: list of Kubernetes tolerations of the steps, for tainted nodes.
        store_credentials: name of the Secret in the run's namespace whose keys accesskey and
            secretkey open the object store; see epg_full.
    """
    site = policy.Site(  # of its settings, those of steps without torch
        tools_image=tools_image,
        node_selector=node_selector,
        tolerations=tolerations,
        store_credentials=store_credentials,
    )
    with dsl.ParallelFor(shard_parts, name="parts", parallelism=PODS) as part:
        site.runs(
            shard_part(
                recipe=recipe,
                overrides=overrides,
                store=store,
                run_name=run_name,
                part=part,
            ),
            "shard-part",
        )

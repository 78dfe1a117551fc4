"""Step `shard-plan`: a signature; the work is in `epg.stages.shard_plan`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def shard_plan(
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
    shard_parts: int,
) -> list:
    """Say which parts of the shards other pods are to write, as in `["1/3", "2/3"]`.

    Args:
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
        shard_parts: into how many parts the shards are divided; the last is that of `shard`.
    """
    from epg.stages.shard_plan import shard_plan_component

    return shard_plan_component(
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
        shard_parts=shard_parts,
    )

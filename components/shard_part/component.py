"""Step `shard-part`: a signature; the work is in `epg.stages.shard_part`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def shard_part(
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
    part: str,
) -> None:
    """Write a part of the shards of the recipe's source, for `shard` to gather.

    Args:
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
        part: which part of how many, such as `2/4`.
    """
    from epg.stages.shard_part import shard_part_component

    shard_part_component(
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
        part=part,
    )

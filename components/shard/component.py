"""Step `shard`: a signature; the work is in `epg.stages.shard`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def shard(
    shards: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
    begin_at: str,
    shard_parts: int,
) -> None:
    """Write the images of the recipe's source as tar shards into the store.

    Args:
        shards: the manifest (JSON): keys, sizes and SHA-256 of the tar shards in the store,
            number of images per split and class, names of the classes.
        page: the data report: images per class, sizes, conversions, refusals, samples.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
        begin_at: a stage, such as `pretrain`, whose results and all that were made of them are
            thrown away first; empty for none.
        shard_parts: into how many parts the shards are divided; the last is ours, the others are
            left to whoever is at them.
    """
    from epg.stages.shard import shard_component

    shard_component(
        shards=shards,
        page=page,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
        begin_at=begin_at,
        shard_parts=shard_parts,
    )

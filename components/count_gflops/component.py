"""Step `count-gflops`: a signature; the work is in `epg.stages.count_gflops`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def count_gflops(
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Count parameters and multiply-adds of the recipe's networks, from their shapes.

    Args:
        metrics: parameters, GMACs of one evaluation of one image, and GFLOPs (2 per MAC).
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.count_gflops import count_gflops_component

    count_gflops_component(
        metrics=metrics,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

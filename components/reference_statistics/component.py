"""Step `reference-statistics`: a signature; the work is in `epg.stages.reference_statistics`."""

from kfp import dsl

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def reference_statistics(
    shards: dsl.Input[dsl.Dataset],
    statistics: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Train the judge of small images and take the statistics of the held-out split.

    Args:
        shards: manifest of the shards (JSON); the shards themselves are read from the store.
        statistics: where they lie (JSON: URI, SHA-256, size): moments of held-out features.
        metrics: number of images, and the classifier's held-out accuracy (0 to 1).
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.reference_statistics import reference_statistics_component

    reference_statistics_component(
        shards=shards,
        statistics=statistics,
        metrics=metrics,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

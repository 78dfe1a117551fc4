"""Step `evaluate`: a signature; the work is in `epg.stages.evaluate`."""

from kfp import dsl

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def evaluate(
    shards: dsl.Input[dsl.Dataset],
    statistics: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    grid: dsl.Output[dsl.HTML],
    objective: str,
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Generate images and judge them against the held-out split.

    Args:
        shards: manifest of the shards (JSON); the shards themselves are read from the store.
        statistics: where the statistics of held-out features lie (JSON: URI, SHA-256, size).
        generator: where the generator's weights lie (JSON: URI, SHA-256, size).
        metrics: Fréchet distance, precision, recall, class agreement (0 to 1), NFE,
            parameters, GMACs, images per second.
        grid: generated images by class, one self-contained page.
        objective: `denoising` or `consistency`.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.evaluate import evaluate_component

    evaluate_component(
        shards=shards,
        statistics=statistics,
        generator=generator,
        metrics=metrics,
        grid=grid,
        objective=objective,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

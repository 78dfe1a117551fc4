"""Step `register`: a signature; the work is in `epg.stages.register`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def register(
    generator: dsl.Input[dsl.Model],
    metrics: dsl.Input[dsl.Metrics],
    objective: str,
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> str:
    """Put the generator with its card and metrics into the registry, once per digest.

    Args:
        generator: where the generator's weights lie (JSON: URI, SHA-256, size).
        metrics: metrics of the evaluation, for the model card.
        objective: `denoising` or `consistency`.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.

    Returns:
        URI of the registered model.
    """
    from epg.stages.register import register_component

    return register_component(
        generator=generator,
        metrics=metrics,
        objective=objective,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

"""Step `gate`: a signature; the work is in `epg.stages.gate`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def gate(
    metrics: dsl.Input[dsl.Metrics],
    objective: str,
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> str:
    """Say whether the model reaches what the recipe's `gate` section asks for.

    Args:
        metrics: metrics of the evaluation. The gate reads them from the run's store: Kubeflow
            keeps six decimals only.
        objective: `denoising` or `consistency`.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.

    Returns:
        `pass` or `fail`; the reasons lie in the stage's record.
    """
    from epg.stages.gate import gate_component

    return gate_component(
        metrics=metrics,
        objective=objective,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

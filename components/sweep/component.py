"""Step `sweep`: a signature; the work is in `epg.stages.sweep`."""

from kfp import dsl

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def sweep(
    statistics: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    plot: dsl.Output[dsl.HTML],
    objective: str,
    grid: dict,
    num_samples: int,
    figure: str,
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Try sampling settings of a generator on few images, and say which is best.

    Args:
        statistics: where the statistics of real features lie (JSON: URI, SHA-256, size).
        generator: where the generator's weights lie (JSON: URI, SHA-256, size).
        metrics: the best value of the figure, and how many settings were tried.
        plot: the figure by each setting, and all points, one self-contained page.
        objective: `denoising` or `consistency`.
        grid: setting -> values to try: `{"guidance_scale": [1, 2, 3], "steps": [18, 32],
            "guidance_interval": [[0.19, 1.61]], "ema": [0.9999]}`.
        num_samples: images of each setting; 0: 10,000, or the recipe's where it has fewer.
        figure: which is to be least; empty: FID where the recipe measures it.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.sweep import sweep_component

    sweep_component(
        statistics=statistics,
        generator=generator,
        metrics=metrics,
        plot=plot,
        objective=objective,
        grid=grid,
        num_samples=num_samples,
        figure=figure,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

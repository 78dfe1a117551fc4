"""Step `finetune`: a signature; the work is in `epg.stages.finetune`."""

from kfp import dsl

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def finetune(
    shards: dsl.Input[dsl.Dataset],
    encoder: dsl.Input[dsl.Model],
    generator: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
    objective: str,
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Fine-tune encoder and fresh decoder into a generator (EPG, section 3.2).

    Resumes from the newest whole checkpoint of the same run in the store.

    Args:
        shards: manifest of the shards (JSON); the shards themselves are read from the store.
        encoder: where the pre-trained weights lie (JSON: URI, SHA-256, size).
        generator: where the averaged weights lie (JSON: URI, SHA-256, size; safetensors).
        metrics: last losses by term, steps, images seen, images per second.
        curves: loss curves of the stage, one self-contained page.
        objective: `denoising` or `consistency`.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.finetune import finetune_component

    finetune_component(
        shards=shards,
        encoder=encoder,
        generator=generator,
        metrics=metrics,
        curves=curves,
        objective=objective,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

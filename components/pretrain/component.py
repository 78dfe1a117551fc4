"""Step `pretrain`: a signature; the work is in `epg.stages.pretrain`."""

from kfp import dsl

from components import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def pretrain(
    shards: dsl.Input[dsl.Dataset],
    encoder: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Pre-train the encoder by representation consistency (EPG, section 3.1).

    Resumes from the newest whole checkpoint of the same run in the store.

    Args:
        shards: manifest of the shards (JSON); the shards themselves are read from the store.
        encoder: where encoder and projector lie (JSON: URI, SHA-256, size; safetensors).
        metrics: last losses by term, steps, images seen, images per second.
        curves: loss curves of the stage, one self-contained page.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.pretrain import pretrain_component

    pretrain_component(
        shards=shards,
        encoder=encoder,
        metrics=metrics,
        curves=curves,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

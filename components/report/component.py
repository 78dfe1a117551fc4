"""Step `report`: a signature; the work is in `epg.stages.report`."""

from kfp import dsl

from components import TOOLS_IMAGE


@dsl.component(base_image=TOOLS_IMAGE, install_kfp_package=False)
def report(
    page: dsl.Output[dsl.HTML],
    status: dsl.PipelineTaskFinalStatus,
    recipe: str,
    overrides: dict,
    store: str,
    run_name: str,
) -> None:
    """Gather what the run left in its store into one HTML page; also after a failure.

    Args:
        page: the report, one self-contained page.
        status: how the run ended, filled in by Kubeflow.
        recipe: name of a packaged recipe (`digits`), or a whole recipe as YAML text.
        overrides: dotted key -> value, laid over the recipe: `{"pretrain.steps": 100}`.
        store: URI of the object store's root: `/absolute/folder`, `s3://BUCKET/PREFIX` or
            `minio://HOST:PORT/BUCKET/PREFIX`.
        run_name: name of the run; its results lie under `<store>/<run_name>/`.
    """
    from epg.stages.report import report_component

    report_component(
        page=page,
        status=status,
        recipe=recipe,
        overrides=overrides,
        store=store,
        run_name=run_name,
    )

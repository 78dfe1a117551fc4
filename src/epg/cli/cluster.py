"""The commands for a cluster: submit, status, doctor, and health for its containers."""

from __future__ import annotations

from typing import Annotated

import typer

from epg.cli.options import with_examples

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id or name of a submitted run.")]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint", metavar="URL", help="Kubeflow Pipelines; default: EPG_KFP_ENDPOINT."
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option("--token-file", metavar="FILE", help="Bearer token; else KFP_EXISTING_TOKEN."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Yours, where users have one each."),
]
KubeconfigOption = Annotated[
    str | None,
    typer.Option("--kubeconfig", metavar="FILE", help="Way to the cluster; default: KUBECONFIG."),
]


def add_cluster_commands(app: typer.Typer) -> None:
    """Add what needs a cluster."""
    for command in (submit, status, terminate, doctor, health):
        app.command()(command)


@with_examples(
    "epg submit recipe=digits --endpoint http://127.0.0.1:8888 --wait",
    "epg submit pipelines/epg_full.yaml recipe=@mine.yaml run_name=mine",
    "epg submit recipe=digits 'overrides={\"pretrain.steps\": 100}' consistency=false",
    "epg submit recipe=digits --run-name 'digits-{date}'",
)
def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE] [NAME=VALUE]...",
            help="Compiled pipeline, default pipelines/epg_full.yaml, and its parameters.",
            show_default=False,
        ),
    ] = None,
    endpoint: EndpointOption = None,
    experiment: Annotated[
        str, typer.Option("--experiment", metavar="NAME", help="Made where absent.")
    ] = "epg",
    run_name: Annotated[
        str | None,
        typer.Option(
            "--run-name", metavar="NAME", help="The same resumes; {date} is now; the recipe's."
        ),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take results of earlier runs.")
    ] = True,
    begin_at: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Throw results away from there on."),
    ] = None,
    service_account: Annotated[
        str | None, typer.Option("--service-account", metavar="NAME", help="For the pods.")
    ] = None,
    pipeline_root: Annotated[
        str | None, typer.Option("--pipeline-root", metavar="URI", help="Where artifacts go.")
    ] = None,
    namespace: NamespaceOption = None,
    token_file: TokenFileOption = None,
    kubeconfig: KubeconfigOption = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow it; exit 1 when it fails.")
    ] = False,
) -> None:
    """Send the compiled pipeline to Kubeflow Pipelines.

    Types of parameters are those of the file; recipe and overrides are checked before.
    """
    from epg.cluster.runs.submit import SubmitRequest
    from epg.cluster.runs.submit import submit as submit_run

    request = SubmitRequest(
        words=words or [],
        endpoint=endpoint,
        experiment=experiment,
        run_name=run_name,
        cache=cache,
        begin_at=begin_at,
        service_account=service_account,
        pipeline_root=pipeline_root,
        namespace=namespace,
        token_file=token_file,
        wait=wait,
        kubeconfig=kubeconfig,
    )
    raise typer.Exit(submit_run(request))


@with_examples(
    "epg status digits-20261124-101500-3f2a",
    "epg status 2f1c9a52-6f0b-4d3e-9a55-0c8f5a7d1e11 --namespace team-a",
)
def status(
    run: RunArgument,
    endpoint: EndpointOption = None,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Say why a run on a cluster stands still or failed.

    Exit code 0 while nothing is wrong, else 1.
    """
    from epg.cluster.runs.status import status as tell

    code = tell(
        run,
        endpoint=endpoint,
        namespace=namespace,
        kubeconfig=kubeconfig,
        token_file=token_file,
    )
    raise typer.Exit(code)


@with_examples("epg terminate digits-20261124-101500-3f2a")
def terminate(
    run: RunArgument,
    endpoint: EndpointOption = None,
    namespace: NamespaceOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """End a run on a cluster.

    Its results and checkpoints stay: the same run name goes on from them.
    """
    from epg.cluster.runs.submit import terminate as end

    raise typer.Exit(end(run, endpoint, token_file, namespace))


@with_examples(
    "epg doctor --endpoint http://127.0.0.1:8888",
    "epg doctor --store minio://127.0.0.1:9000/epg/runs",
)
def doctor(
    endpoint: EndpointOption = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URI", help="Write, read, delete there.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Where runs' pods are.")
    ] = "kubeflow",
    kubeconfig: KubeconfigOption = None,
    token_file: TokenFileOption = None,
    secret: Annotated[
        str | None,
        typer.Option("--secret", metavar="NAME", help="With the store's credentials."),
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", metavar="URL", help="Where metrics arrive.")
    ] = None,
) -> None:
    """Try what a run on a cluster needs, and say how to mend what fails."""
    from epg.cluster.doctor.doctor import DoctorRequest
    from epg.cluster.doctor.doctor import doctor as examine

    request = DoctorRequest(
        endpoint=endpoint,
        token_file=token_file,
        store=store,
        namespace=namespace,
        kubeconfig=kubeconfig,
        secret=secret,
        prometheus=prometheus,
    )
    raise typer.Exit(examine(request))


@with_examples(
    "docker run --rm --read-only epg-train:0.2.0 epg health --load",
)
def health(
    load: Annotated[
        bool, typer.Option("--load", help="Import torch, too, and name its devices.")
    ] = False,
) -> None:
    """Tell whether this container is able to run a step."""
    from epg.runs.health import health as look

    raise typer.Exit(look(load=load))

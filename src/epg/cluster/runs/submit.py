"""`epg submit`: a compiled pipeline, checked here, sent to Kubeflow Pipelines, and followed."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from epg.cluster.runs.kfp_api import KfpApi
from epg.cluster.runs.parameters import (
    LARGEST,
    CompiledPipeline,
    parse_arguments,
    read_pipeline,
)
from epg.cluster.runs.requirements import check_name, check_requirements
from epg.errors import UserError
from epg.text import printable


_DATE = "{date}"  # in a run name: the time of submission takes its place


@dataclass(frozen=True)
class SubmitRequest:
    """What `epg submit` was asked for."""

    words: list[str] = field(default_factory=list)
    endpoint: str | None = None
    experiment: str = "epg"
    run_name: str | None = None
    cache: bool = True
    begin_at: str | None = None
    service_account: str | None = None
    pipeline_root: str | None = None
    namespace: str | None = None
    token_file: str | None = None
    wait: bool = False
    kubeconfig: str | None = None


def submit(request: SubmitRequest) -> int:
    """Check everything here, send the run, and follow it when asked; return the exit code."""
    pipeline, arguments = prepare(request)
    api = KfpApi.open(request.endpoint, request.token_file)
    run_id = send(api, pipeline, arguments, request)
    if not request.wait:
        _say(f"follow it by `epg status {run_id}`, or next time by --wait")
        return 0
    from epg.cluster.runs.following import follow

    return follow(api, run_id, request.namespace, request.kubeconfig, _say)


def prepare(request: SubmitRequest) -> tuple[CompiledPipeline, dict[str, Any]]:
    """Read the pipeline and its arguments, recipe included, without a server.

    Raises:
        UserError: whatever of it the run would stumble over.
    """
    files = [word for word in request.words if "=" not in word]
    if len(files) > 1:
        raise UserError(f"{files[1]}: one pipeline file, and parameters as name=value")
    if files:
        path = Path(files[0])
    else:
        from epg.cluster.local import compiled_pipeline

        path = compiled_pipeline()
    pipeline = read_pipeline(path)
    words = [word for word in request.words if "=" in word]
    arguments = parse_arguments(words, pipeline.parameters)
    _settle_beginning(pipeline, arguments, request.begin_at)
    _check_recipe(pipeline, arguments, words)
    _settle_run_name(pipeline, arguments, request.run_name)
    _check_rest(pipeline, arguments, request)
    return pipeline, arguments


def _settle_beginning(
    pipeline: CompiledPipeline, arguments: dict[str, Any], option: str | None
) -> None:
    if option is not None and "begin_at" not in pipeline.parameters:
        raise UserError(
            f"--from {option}: pipeline {pipeline.name} has no parameter begin_at; epg-full has"
        )
    if option is not None:
        arguments["begin_at"] = option
    if stage := arguments.get("begin_at"):
        from epg.stages.afresh import check_stage

        check_stage(stage, "--from")


def _check_recipe(
    pipeline: CompiledPipeline, arguments: dict[str, Any], words: Iterable[str]
) -> None:
    """Load the recipe as the first step will, and name the run after it."""
    known = pipeline.parameters
    if "recipe" not in known or known["recipe"].type != "STRING":
        return
    from epg.config.loading import load_recipe, passable_recipe, travels

    overrides = arguments.get("overrides") or getattr(known.get("overrides"), "default", None) or {}
    recipe = arguments.get("recipe", known["recipe"].default)
    if not recipe:
        return  # a pipeline that needs none, such as for a registered model
    # A file is named in errors as the user named it.
    file = next((word[8:] for word in words if word.startswith("recipe=@")), None)
    if (
        file is None
        and "\n" not in recipe
        and (recipe.endswith((".yaml", ".yml")) or "/" in recipe)
    ):
        raise UserError(f"recipe={recipe}: steps do not see this file; recipe=@{recipe} sends it")
    where = file if file is not None and file.endswith((".yaml", ".yml")) else recipe
    loaded = load_recipe(where, overrides)
    if "recipe" in arguments and "run_name" in known:
        arguments.setdefault("run_name", loaded.name)
    if "{{" in recipe or not travels(overrides):
        arguments["recipe"] = passable_recipe(loaded)
        arguments["overrides"] = {}


def _settle_run_name(
    pipeline: CompiledPipeline, arguments: dict[str, Any], option: str | None
) -> None:
    if "run_name" in pipeline.parameters:
        from epg.runs.run import RUN_PLACE, check_run_name

        if option is not None:
            arguments["run_name"] = option
        name = str(arguments.get("run_name", pipeline.parameters["run_name"].default))
        if _DATE in name:
            name = name.replace(_DATE, f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
            arguments["run_name"] = name
        check_run_name(name.replace(RUN_PLACE, "0" * 8))


def _check_rest(
    pipeline: CompiledPipeline, arguments: dict[str, Any], request: SubmitRequest
) -> None:
    """Refuse what a pod or the way to it would stumble over."""
    if pipeline.name.startswith("epg-"):
        defaults = {name: parameter.default for name, parameter in pipeline.parameters.items()}
        check_requirements(arguments, defaults)
    check_name("--service-account", request.service_account)
    check_name("--namespace", request.namespace)
    if request.pipeline_root is not None and "://" not in request.pipeline_root:
        raise UserError(
            f"--pipeline-root {request.pipeline_root!r}: pods do not see it; write a URI such as "
            "s3://BUCKET/PREFIX"
        )
    for name, value in arguments.items():
        if "{{" in json.dumps(value):
            raise UserError(f"parameter {name} has '{{{{', which Kubeflow replaces: write it otherwise")
    size = len(json.dumps(arguments).encode())
    if size > LARGEST:
        raise UserError(
            f"the parameters have {size:,} bytes together; at most {LARGEST:,} fit into a step's "
            "arguments: shorten the recipe's description and comments"
        )


def send(
    api: KfpApi, pipeline: CompiledPipeline, arguments: dict[str, Any], request: SubmitRequest
) -> str:
    """Create the experiment where absent, and the run; return the run's id."""
    server = api.server()
    if server.multi_user and not request.namespace:
        raise UserError(f"{api.endpoint} serves several users: give --namespace, your profile's")
    namespace = request.namespace if server.multi_user else None
    experiment, made = api.experiment(request.experiment, namespace)
    _say(f"{'made experiment' if made else 'experiment'} {request.experiment} ({experiment})")
    default = getattr(pipeline.parameters.get("run_name"), "default", None)
    name = arguments.get("run_name") or request.run_name or default or pipeline.name
    display_name = unique_name(str(name))
    runtime: dict[str, Any] = {"parameters": arguments}
    if request.pipeline_root:
        runtime["pipeline_root"] = request.pipeline_root
    body = {
        "display_name": display_name,
        "experiment_id": experiment,
        # The cache would give back what `begin_at` throws away.
        "pipeline_spec": pipeline.spec(cache=request.cache and not arguments.get("begin_at")),
        "runtime_config": runtime,
    }
    if request.service_account:
        body["service_account"] = request.service_account
    run_id = str(api.create_run(body)["run_id"])
    _say(f"run {display_name} ({run_id})")
    _say(f"look at {api.link(run_id)}")
    return run_id


def terminate(name: str, endpoint: str | None, token_file: str | None, namespace: str | None) -> int:
    """Ask Kubeflow Pipelines to end a run; return the exit code."""
    from epg.cluster.runs.following import ENDED

    api = KfpApi.open(endpoint, token_file)
    run = api.run(name, namespace)
    run_id, state = str(run["run_id"]), str(run.get("state") or "PENDING").upper()
    if state in ENDED:
        _say(f"run {run_id} has ended already: {state.lower()}")
        return 0
    api.terminate(run_id)
    _say(
        f"run {run_id} is being terminated: its steps end within a minute, its report comes last; "
        "a run of the same run_name goes on from the last checkpoint"
    )
    return 0


def unique_name(name: str) -> str:
    """Return a name that no other run has: the time to the second and four random digits."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _say(line: str) -> None:
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()

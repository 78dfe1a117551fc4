"""`epg submit` against a stand-in for the server: what is sent, and what is refused before."""

from __future__ import annotations

import re
import shutil

import pytest

from epg.cluster.local import compiled_pipeline
from epg.cluster.runs import following
from epg.cluster.runs.endpoint import find_endpoint, find_token
from epg.cluster.runs.parameters import Parameter, parse_value, read_pipeline
from epg.cluster.runs.submit import SubmitRequest, submit, terminate, unique_name
from epg.config.loading import dump_recipe, load_recipe
from epg.errors import UserError
from tests.toys.cluster_api import RUN_ID, cluster_api, ended, pod, waiting

TYPES = """\
pipelineInfo: {name: types}
root:
  dag: {tasks: {say: {cachingOptions: {enableCache: true}}}}
  inputDefinitions:
    parameters:
      s: {parameterType: STRING, defaultValue: a, isOptional: true}
      i: {parameterType: NUMBER_INTEGER, defaultValue: 1.0, isOptional: true}
      f: {parameterType: NUMBER_DOUBLE, defaultValue: 1.0, isOptional: true}
      b: {parameterType: BOOLEAN, defaultValue: true, isOptional: true}
      d: {parameterType: STRUCT, defaultValue: {}, isOptional: true}
      l: {parameterType: LIST, defaultValue: [], isOptional: true}
schemaVersion: 2.1.0
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("EPG_KFP_ENDPOINT", "KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KFP_EXISTING_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_UI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(following, "_PAUSE", 0.01)


@pytest.fixture
def api():
    with cluster_api() as stub:
        yield stub


def types_file(folder):
    path = folder / "types.yaml"
    path.write_text(TYPES)
    return str(path)


def test_values_take_the_types_of_the_file(api, tmp_path):
    words = ["s=1.10", "i=3.0", "f=2", "b=yes", 'd={"b": 2, "d": null}', 'l=[1,"x"]']
    assert submit(SubmitRequest([types_file(tmp_path), *words], api.url)) == 0
    (body,) = api.sent("POST", "/runs")
    sent = body["runtime_config"]["parameters"]
    assert sent == {
        "s": "1.10",
        "i": 3,
        "f": 2.0,
        "b": True,
        "d": {"b": 2, "d": None},
        "l": [1, "x"],
    }
    assert isinstance(sent["i"], int)
    assert body["display_name"].startswith("types-")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("i=abc", "parameter i is 'abc': it takes a whole number (NUMBER_INTEGER)"),
        ("i=2.5", "parameter i is '2.5'"),
        ("i=90071992547409930", "within"),
        ("f=nan", "parameter f is 'nan': it takes a number"),
        ("b=maybe", "true or false (BOOLEAN)"),
        ("d=[1]", "parameter d is '[1]': it takes JSON"),
        ("d={a: 1}", "JSON such as"),
        ("l={}", "(LIST)"),
        ("l=[NaN]", "(LIST)"),
        ("i=", "whole number"),
        ("=3", "name=value"),
        ("x=1", "unknown parameter 'x': there are b, d, f, i, l, s"),
        ("s=@absent.txt", "s=@absent.txt: cannot read it"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_sent(api, tmp_path, word, said):
    with pytest.raises(UserError, match=re.escape(said)):
        submit(SubmitRequest([types_file(tmp_path), word], api.url))
    assert api.requests == []


def test_long_values_do_not_fit():
    with pytest.raises(UserError, match="at most 100,000 fit"):
        parse_value(Parameter("s", "STRING"), "x" * 100_001)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recpe=digits"], "did you mean 'recipe'?"),
        (["recipe=digit"], "did you mean 'digits'?"),
        (["recipe=digits", 'overrides={"pretrain.stepz": 5}'], "pretrain.stepz"),
        (["recipe=mine.yaml"], "recipe=@mine.yaml sends it"),
        (["recipe=@mine.yaml"], "cannot read it"),
        (["recipe=@bad.yaml"], "bad.yaml:1: name is missing"),
        (["run_name=a b"], "run name 'a b'"),
        (["recipe=digits", "recipe=smoke"], "given twice"),
        (["a.yaml", "b.yaml"], "one pipeline file"),
        (["absent.yaml"], "absent.yaml: No such file"),
        (["bad.yaml"], "no compiled pipeline"),
        (["manifest.yaml"], "Kubernetes manifest"),
    ],
)
def test_recipes_and_files_are_checked_here(api, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("pretrain:\n  stepz: 5\n")
    (tmp_path / "manifest.yaml").write_text("apiVersion: pipelines.kubeflow.org/v2beta1\n")
    with pytest.raises(UserError, match=re.escape(said)):
        submit(SubmitRequest(words, api.url))
    assert api.requests == []


@pytest.mark.parametrize(
    "word",
    [
        "memory=8GB",
        "memory=8",
        "memory=400m",
        "memory=",
        "memory=-1Gi",
        "cpu=lots",
        "cpu=0",
        "cpu_request=64",
        "accelerator_count=1.5",
        "accelerator_count=-1",
        "accelerator_count=99999999999999999999",
        "accelerator_type=gpu",
        "image=",
        "image=a b",
        "tools_image=https://x",
        "store=/local/path",
        "store=file:///x",
        "store=s3://",
        "store=minio://127.0.0.1:9000/epg/runs",
        "store_credentials=My_Secret",
        'node_selector={"pool": 1}',
        'tolerations=["gpu"]',
        'tolerations=[{"kye": "gpu"}]',
        "store=s3://epg/{{workflow.name}}",
    ],
)
def test_parameters_of_which_no_pod_can_be_made(api, word):
    with pytest.raises(UserError, match=f"parameter {word.partition('=')[0]} ") as caught:
        submit(SubmitRequest(["recipe=smoke", word], api.url))
    assert "\n" not in str(caught.value)
    assert api.requests == []


@pytest.mark.parametrize(
    ("pipeline", "word", "said"),
    [
        ("epg_sweep", "objective=gan", "'gan': write denoising or consistency"),
        ("epg_evaluate", "objective=", "'': write denoising or consistency"),
        ("epg_sweep", "num_samples=-1", "at least 0"),
        ("epg_sweep", "figure=frechet", "'frechet': write fid, "),
        ("epg_sweep", "grid={}", "nothing to try"),
        ("epg_sweep", 'grid={"scale": [1]}', "grid has 'scale'"),
        ("epg_sweep", 'grid={"steps": [18.5]}', "steps is [18.5]: write whole numbers"),
        ("epg_sweep", 'grid={"steps": "18"}', "steps is '18'"),
        ("epg_full", "shard_parts=0", "write a whole number from 1 to 64"),
        ("epg_full", "shard_parts=65", "write a whole number from 1 to 64"),
    ],
)
def test_parameters_that_no_step_takes(api, pipeline, word, said):
    words = [str(compiled_pipeline().with_name(f"{pipeline}.yaml")), "recipe=smoke", word]
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        submit(SubmitRequest(words, api.url))
    assert str(caught.value).startswith(f"parameter {word.partition('=')[0]} is ")
    assert "\n" not in str(caught.value)
    assert api.requests == []


@pytest.mark.parametrize(
    "word",
    [
        "memory=16Gi",
        "memory=1.5G",
        "memory=137438953472",
        "cpu=16",
        "cpu=500m",
        "accelerator_count=8",
        "accelerator_type=amd.com/gpu",
        "image=registry.example:5000/epg/train@sha256:" + "0" * 64,
        "store=minio://minio.minio:9000/epg/runs",
        'node_selector={"pool": "gpu"}',
        'tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]',
    ],
)
def test_parameters_that_clusters_take(api, word):
    assert submit(SubmitRequest(["recipe=smoke", word], api.url)) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pipeline_root": "/tmp/x"}, "--pipeline-root '/tmp/x': pods do not see it"),
        ({"service_account": "My Account"}, "--service-account 'My Account'"),
        ({"namespace": "a/b"}, "--namespace 'a/b'"),
    ],
)
def test_options_are_checked_before_the_server(api, options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        submit(SubmitRequest(["recipe=smoke"], api.url, **options))
    assert api.requests == []


def test_marks_of_templates_in_a_recipe_travel_unseen(api, tmp_path):
    text = dump_recipe(load_recipe("smoke", {"description": "{{$.inputs.parameters['store']}}"}))
    (tmp_path / "mine.yaml").write_text(text)
    words = [f"recipe=@{tmp_path}/mine.yaml", 'overrides={"pretrain.steps": 7}']
    assert submit(SubmitRequest(words, api.url)) == 0
    sent = api.sent("POST", "/runs")[0]["runtime_config"]["parameters"]
    assert "{{" not in sent["recipe"]
    assert sent["overrides"] == {}
    assert load_recipe(sent["recipe"]) == load_recipe(text, {"pretrain.steps": 7})


def test_all_parameters_together_must_fit(api, tmp_path):
    text = dump_recipe(load_recipe("smoke", {"description": "\u00e9" * 60_000}))
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="bytes together; at most 100,000 fit"):
        submit(SubmitRequest([f"recipe=@{tmp_path}/mine.yaml"], api.url))
    assert api.requests == []


def test_the_full_pipeline_with_a_recipe_of_ones_own(api, tmp_path, capsys):
    text = dump_recipe(load_recipe("smoke")).replace("name: smoke", "name: mine", 1)
    (tmp_path / "mine.yaml").write_text(text)
    request = SubmitRequest(
        [f"recipe=@{tmp_path}/mine.yaml"],
        api.url,
        cache=False,
        service_account="runner",
        pipeline_root="minio://b/p",
    )
    assert submit(request) == 0
    (experiment,) = api.sent("POST", "/experiments")
    assert experiment == {"display_name": "epg"}
    (body,) = api.sent("POST", "/runs")
    assert body["runtime_config"]["parameters"] == {"recipe": text, "run_name": "mine"}
    assert body["runtime_config"]["pipeline_root"] == "minio://b/p"
    assert body["service_account"] == "runner"
    assert body["experiment_id"] == "experiments-1"
    spec = body["pipeline_spec"].get("pipeline_spec", body["pipeline_spec"])
    parts = [spec["root"], *spec["components"].values()]
    tasks = [t for part in parts for t in part.get("dag", {}).get("tasks", {}).values()]
    assert len(tasks) > 10
    assert all(task["cachingOptions"] == {"enableCache": False} for task in tasks)
    out = capsys.readouterr().out
    assert f"/#/runs/details/{RUN_ID}" in out
    assert re.search(r"run mine-\d{8}-\d{6}-[0-9a-f]{4} ", out)


def test_the_body_is_what_kfps_own_client_sends(api):
    compiled = compiled_pipeline()
    from kfp.client.client import _extract_pipeline_yaml

    ours = read_pipeline(compiled).spec()
    assert ours == _extract_pipeline_yaml(str(compiled)).to_dict()


def test_an_experiment_that_is_there_is_taken(api):
    api.experiments.append({"display_name": "epg", "experiment_id": "e7"})
    submit(SubmitRequest(["recipe=digits"], api.url, run_name="again"))
    assert api.sent("POST", "/experiments") == []
    (body,) = api.sent("POST", "/runs")
    assert body["experiment_id"] == "e7"
    assert body["runtime_config"]["parameters"]["run_name"] == "again"


def test_names_are_unique():
    assert len({unique_name("a") for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("health", "said"),
    [({"tag_name": "2.4.1"}, "2.4.1, too old"), (None, "no Kubeflow Pipelines with the v2beta1")],
)
def test_a_server_too_old(api, health, said):
    api.health = health
    with pytest.raises(UserError, match=said):
        submit(SubmitRequest(["recipe=digits"], api.url))
    assert not api.sent("POST", "/runs")


def test_tokens(api, tmp_path):
    api.token = "right"
    file = tmp_path / "token"
    for text, said in [(None, "it wants a token: 401"), ("wrong", "is not accepted: 401")]:
        if text:
            file.write_text(text)
        with pytest.raises(UserError, match=said):
            submit(
                SubmitRequest(["recipe=digits"], api.url, token_file=str(file) if text else None)
            )
    file.write_text("right\n")
    assert submit(SubmitRequest(["recipe=digits"], api.url, token_file=str(file))) == 0
    assert find_token(None, {"KFP_EXISTING_TOKEN": "abc"}) == "abc"
    with pytest.raises(UserError, match="No such file"):
        find_token(str(tmp_path / "absent"))


def test_endpoints():
    with pytest.raises(UserError, match="no Kubeflow Pipelines endpoint"):
        submit(SubmitRequest(["recipe=digits"]))
    with pytest.raises(UserError, match="nothing listens there"):
        submit(SubmitRequest(["recipe=digits"], "http://127.0.0.1:1"))
    assert find_endpoint("kfp.example/pipeline/") == "https://kfp.example/pipeline"
    assert find_endpoint("localhost:8888") == "http://localhost:8888"
    assert find_endpoint(None, {"KFP_ENDPOINT": "http://a:1"}) == "http://a:1"
    for wrong in ("ftp://a", "http://u:p@a", "http://a:99999", "http://"):
        with pytest.raises(UserError, match="write http"):
            find_endpoint(wrong)


def test_a_server_of_many_users_wants_a_namespace(api):
    api.health = {"tag_name": "2.17.0", "multi_user": True}
    with pytest.raises(UserError, match="give --namespace"):
        submit(SubmitRequest(["recipe=digits"], api.url))
    assert submit(SubmitRequest(["recipe=digits"], api.url, namespace="team-a")) == 0
    assert api.sent("POST", "/experiments") == [{"display_name": "epg", "namespace": "team-a"}]


def test_waiting_ends_well(api, tmp_path, capsys):
    api.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    request = SubmitRequest(
        ["recipe=digits"], api.url, wait=True, kubeconfig=api.kubeconfig(tmp_path)
    )
    assert submit(request) == 0
    out = capsys.readouterr().out
    assert [out.count(f"run {s}\n") for s in ("pending", "running", "succeeded")] == [1, 1, 1]


def test_waiting_tells_what_stands_still_and_why_it_failed(api, tmp_path, capsys):
    api.states = ["RUNNING", "RUNNING", "FAILED"]
    api.pods = [
        pod("p-1", "shard", waiting("ImagePullBackOff", "Back-off pulling")),
        pod("p-2", "pretrain", ended(1, message="Error (exit code 1)")),
    ]
    api.logs = {"p-2": "step 1\nepg: error: pretrain: loss is not finite\nexit status 2\n"}
    request = SubmitRequest(
        ["recipe=digits"], api.url, wait=True, kubeconfig=api.kubeconfig(tmp_path)
    )
    assert submit(request) == 1
    out = capsys.readouterr().out
    assert out.count("the image example/epg:none cannot be pulled") == 2  # live, and at the end
    assert "epg: error: pretrain: loss is not finite" in out


def test_the_command_itself(api, tmp_path):
    from tests.toys.command import epg

    shutil.copy(types_file(tmp_path), tmp_path / "mine.yaml")
    done = epg(tmp_path, "submit", "mine.yaml", "s=1.10", "--endpoint", api.url, toys=False)
    assert (done.returncode, done.stderr) == (0, "")
    refused = epg(tmp_path, "submit", "mine.yaml", "i=x", "--endpoint", api.url, toys=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("epg: error: parameter i is 'x'")


def test_from_a_stage_takes_nothing_from_the_cache(api):
    request = SubmitRequest(["recipe=smoke"], api.url, begin_at="finetune-denoising")
    assert submit(request) == 0
    (body,) = api.sent("POST", "/runs")
    assert body["runtime_config"]["parameters"]["begin_at"] == "finetune-denoising"
    components = body["pipeline_spec"]["pipeline_spec"]["components"].values()
    tasks = [t for c in components for t in c.get("dag", {}).get("tasks", {}).values()]
    assert tasks
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks)


def test_from_a_stage_that_is_none_or_in_a_pipeline_without_it(api, tmp_path):
    with pytest.raises(
        UserError, match=r"--from pretrian: no such stage \(did you mean 'pretrain'"
    ):
        submit(SubmitRequest(["recipe=smoke"], api.url, begin_at="pretrian"))
    with pytest.raises(UserError, match=r"--from shard: pipeline types has no parameter begin_at"):
        submit(SubmitRequest([types_file(tmp_path)], api.url, begin_at="shard"))
    assert api.requests == []


def test_a_run_name_with_a_date_is_another_one_each_time(api):
    assert submit(SubmitRequest(["recipe=smoke"], api.url, run_name="nightly-{date}")) == 0
    (body,) = api.sent("POST", "/runs")
    name = body["runtime_config"]["parameters"]["run_name"]
    assert re.fullmatch(r"nightly-\d{8}-\d{6}", name)
    assert body["display_name"].startswith(name)


def test_a_run_name_may_have_the_place_of_the_pipeline_runs_id(api):
    assert submit(SubmitRequest(["recipe=smoke"], api.url, run_name="nightly-{run}")) == 0
    (body,) = api.sent("POST", "/runs")
    assert body["runtime_config"]["parameters"]["run_name"] == "nightly-{run}"
    with pytest.raises(UserError, match="run name"):
        submit(SubmitRequest(["recipe=smoke"], api.url, run_name="nightly-{night}"))


def test_a_run_is_terminated_once(api, capsys):
    api.runs.append({"run_id": RUN_ID, "display_name": "digits-1", "state": "RUNNING"})
    assert terminate("digits-1", api.url, None, None) == 0
    assert api.terminated == [RUN_ID]
    assert "goes on from the last checkpoint" in capsys.readouterr().out
    api.runs[0]["state"] = "FAILED"
    assert terminate(RUN_ID, api.url, None, None) == 0
    assert "has ended already: failed" in capsys.readouterr().out
    assert api.terminated == [RUN_ID]

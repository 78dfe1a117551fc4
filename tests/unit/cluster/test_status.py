"""`epg status` against stand-ins: every way in which a run hangs or fails, in words."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from epg.cluster.runs.kfp_api import KfpApi
from epg.cluster.runs.pods import meaningful_line, step_of, trouble_of
from epg.cluster.runs.refusals import NotThere
from epg.cluster.runs.status import explain, status
from epg.errors import UserError
from tests.toys.cluster_api import RUN_ID, cluster_api, ended, pod, waiting

SPEC = {
    "root": {"dag": {"tasks": {"exit-handler-1": {"taskInfo": {"name": "stages"}}}}},
    "components": {
        "comp-exit-handler-1": {
            "dag": {
                "tasks": {
                    "finetune-2": {"taskInfo": {"name": "finetune-consistency"}},
                    "pretrain": {"taskInfo": {"name": "pretrain"}},
                }
            }
        }
    },
}


@pytest.fixture
def api(monkeypatch):
    for name in ("EPG_KFP_ENDPOINT", "KFP_EXISTING_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with cluster_api() as stub:
        stub.runs.append(
            {
                "run_id": RUN_ID,
                "display_name": "digits-1",
                "experiment_id": "e1",
                "state": "RUNNING",
                "pipeline_spec": {"pipeline_spec": SPEC, "platform_spec": {}},
            }
        )
        yield stub


def look(stub, folder, name=RUN_ID):
    return explain(KfpApi(stub.url), name, None, stub.kubeconfig(folder))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (waiting("ImagePullBackOff", "Back-off"), ["example/epg:none cannot be pulled", "name"]),
        (
            waiting("CreateContainerConfigError", 'secret "s3" not found'),
            ['secret "s3" not found', "kubectl -n kubeflow create secret generic s3"],
        ),
        (
            waiting("CreateContainerConfigError", "couldn't find key k in Secret kubeflow/s3"),
            ["its key k is not"],
        ),
        (
            waiting("CreateContainerConfigError", "container has runAsNonRoot and image is root"),
            ["must be a number other than 0"],
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                    }
                ],
            },
            ["no node can take it", "1 Insufficient nvidia.com/gpu", "ask for less"],
        ),
        (ended(1, "OOMKilled"), ["OOMKilled", "memory"]),
        (ended(137), ["OOMKilled"]),
        (ended(143, reason="Error"), ["terminated from outside"]),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, ["past its time limit"]),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, ["low on memory"]),
        (ended(1, message="pretrain: disk full"), ["failed: pretrain: disk full"]),
        (ended(1), ["failed with exit code 1"]),
    ],
)
def test_reasons_of_pods(state, words):
    text = trouble_of(pod("p", "pretrain", state))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "state", [{"phase": "Running"}, {"phase": "Succeeded"}, waiting("PodInitializing", "")]
)
def test_no_trouble(state):
    assert trouble_of(pod("p", "pretrain", state)) == ""


def test_a_run_that_stands_still(api, tmp_path, capsys):
    missing = waiting("CreateContainerConfigError", 'secret "absent" not found')
    api.pods = [pod("p-1", "pretrain", missing)]
    found = look(api, tmp_path)
    text = "\n".join(found.lines())
    assert text.startswith(f"run digits-1 ({RUN_ID}) stands still\n")
    assert 'why: pretrain: CreateContainerConfigError: secret "absent" not found' in text
    assert found.exit_code == 1
    (query,) = [q for _, path, q, _ in api.requests if path.endswith("/pods")]
    assert query["labelSelector"] == [f"pipeline/runid={RUN_ID}"]


def test_a_failed_step_with_its_last_words(api, tmp_path, capsys):
    api.runs[0]["state"] = "FAILED"
    api.pods = [pod("p-1", "finetune-2", ended(1, message="Error (exit code 1)"))]
    api.logs["p-1"] = (
        "step 7\nepg: error: finetune-consistency: the encoder is from another recipe\n"
        "I1124 00:00:00.000 launcher.go] gone\nF1124 00:00:00.0 failed to execute component: 1\n"
    )
    code = status(
        "digits-1",
        endpoint=api.url,
        namespace=None,
        kubeconfig=api.kubeconfig(tmp_path),
        token_file=None,
    )
    text = capsys.readouterr().out
    assert code == 1
    assert "digits-1 (" + RUN_ID + ") failed" in text
    assert "why: finetune-consistency: failed with exit code 1" in text
    assert "epg: error: finetune-consistency: the encoder is from another recipe" in text


def test_a_later_attempt_that_runs_is_no_trouble(api, tmp_path):
    evicted = {"phase": "Failed", "reason": "Evicted"}
    api.pods = [pod("p-1", "pretrain", evicted), pod("p-2", "pretrain", {"phase": "Running"})]
    found = look(api, tmp_path)
    assert (found.troubles, found.exit_code) == ([], 0)


def test_the_api_alone(api):
    api.runs[0]["state"] = "FAILED"
    api.runs[0]["run_details"] = {
        "task_details": [
            {"display_name": "finetune-2", "state": "FAILED", "start_time": "2"},
            {"display_name": "pretrain", "state": "SUCCEEDED", "start_time": "1"},
            {"display_name": "pretrain(0)", "state": "SUCCEEDED", "start_time": "1"},
            {"display_name": "exit-handler-1", "state": "FAILED", "start_time": "0"},
            {"display_name": "executor", "state": "FAILED", "start_time": "2"},
            {"display_name": "pretrain-driver", "state": "SUCCEEDED", "start_time": "1"},
        ]
    }
    found = explain(KfpApi(api.url), "digits-1")
    assert [(t.name, t.state) for t in found.tasks] == [
        ("pretrain", "SUCCEEDED"),
        ("finetune-consistency", "FAILED"),
    ]
    assert "there is no kubeconfig" in found.unseen[0]
    assert any("not seen: the run's pods" in line for line in found.lines())


def test_pods_that_are_gone_or_hidden(api, tmp_path):
    api.runs[0]["state"] = "FAILED"
    assert "an hour after its end" in look(api, tmp_path).unseen[0]
    api.kubernetes = lambda *_: (403, {"kind": "Status", "message": "forbidden"})
    assert "does not allow it (403)" in look(api, tmp_path).unseen[0]


def test_a_cluster_that_does_not_answer(api, tmp_path):
    kubeconfig = api.kubeconfig(tmp_path)
    text = (tmp_path / "kubeconfig").read_text().replace(api.url, "http://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(text)
    found = explain(KfpApi(api.url), RUN_ID, None, kubeconfig)
    assert "no answer from Kubernetes at http://127.0.0.1:1" in found.unseen[0]


def test_a_run_that_is_not_there(api):
    with pytest.raises(NotThere, match=r"no run 'nothing' at .*: the last ones are digits-1"):
        explain(KfpApi(api.url), "nothing")
    with pytest.raises(NotThere, match="no run 00000000"):
        explain(KfpApi(api.url), RUN_ID.replace("2f1c9a52", "00000000"))


def test_a_kubeconfig_that_is_not_there(api, tmp_path):
    with pytest.raises(UserError, match=r"kubeconfig .*absent"):
        explain(KfpApi(api.url), RUN_ID, None, str(tmp_path / "absent"))


def test_a_terminated_run_can_go_on(api, tmp_path):
    api.runs[0]["state"] = "CANCELED"
    assert "a run of the same run_name goes on" in "\n".join(look(api, tmp_path).lines())


def test_a_finished_run_is_well(api):
    api.runs[0]["state"] = "SUCCEEDED"
    found = explain(KfpApi(api.url), RUN_ID)
    assert (found.exit_code, found.unseen) == (0, [])


def test_last_words():
    assert meaningful_line("a\nb\nError: exit status 1\n") == "b"
    crash = 'Traceback (most recent call last):\n  File "a.py"\nValueError: no\nstep 3\n'
    assert meaningful_line(crash) == "ValueError: no"
    assert meaningful_line("E1124 10:00:00 x\n") == ""
    argo = 'why\ntime=2026-11-26T10:00:01.000Z level=INFO msg=done\ntime="2026" level=info\n'
    assert meaningful_line(argo) == "why"
    launcher = "F1126 10:00:00.1      17 main.go:79] failed to execute component: exit status 1\n"
    assert meaningful_line(f"why\n{launcher}") == "why"


def test_the_name_of_a_step():
    labelled = pod("p", "pretrain", {})
    labelled["metadata"]["labels"]["epg/stage"] = "finetune-denoising"
    assert step_of(labelled, {}) == "finetune-denoising"
    inner = pod("p", "x", {})
    path = "wf-1(0).root(0).exit-handler-1(0).finetune-2(0).executor(0)"
    inner["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = path
    assert step_of(inner, {"finetune-2": "finetune-consistency"}) == "finetune-consistency"


LOOP = "wf-1(0).root(0).exit-handler-1(0).condition-2(0).for-loop-3(0).iteration-iterations"


def turn(name, number, state, task="shard-part(0).executor(0)", **labels):
    one = pod(name, "x", state)
    path = f"{LOOP}({number}:{number})(0).iteration-item(0).{task}"
    one["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = path
    one["metadata"]["labels"] |= labels
    return one


def test_the_turns_of_a_loop_are_told_apart(api, tmp_path):
    """One that failed is not taken for an earlier attempt of the next one."""
    part = {"epg/stage": "shard-part"}
    spec = api.runs[0]["pipeline_spec"]["pipeline_spec"]["components"]["comp-exit-handler-1"]
    more = {"for-loop-3": {"taskInfo": {"name": "parts"}}, "shard-part": {}}
    tasks = {**spec["dag"]["tasks"], **more}
    components = {"comp-exit-handler-1": {"dag": {"tasks": tasks}}}
    api.runs[0]["pipeline_spec"] = {"pipeline_spec": {"components": components}}
    node = {"display_name": "shard-part", "start_time": "1"}
    states = ("SUCCEEDED", "FAILED", "RUNNING", "SUCCEEDED")
    details = [{**node, "state": state} for state in states]
    api.runs[0]["run_details"] = {"task_details": details}
    alone = explain(KfpApi(api.url), RUN_ID)
    assert [(task.name, task.state) for task in alone.tasks] == [("shard-part", "FAILED")]
    refused = waiting("CreateContainerConfigError", 'secret "s3" not found')
    api.pods = [
        turn("p-1", 0, ended(2, message="shard-part: the store is full"), **part),
        turn("p-2", 1, {"phase": "Running"}, **part),
        turn("p-3", 2, {"phase": "Succeeded"}, **part),
        turn("p-4", 3, refused, "shard-part-driver(0)"),
        turn("p-5", 4, refused, "iteration-item-driver(0)"),
    ]
    api.logs["p-2"] = "shard-part: 64/500 images\n"
    found = look(api, tmp_path)
    text = "\n".join(found.lines())
    assert "why: shard-part 1: failed: the store is full" in text
    assert "  shard-part 2  running  64/500 images" in text
    assert "  shard-part 3  succeeded" in text
    assert 'why: shard-part 4: CreateContainerConfigError: secret "s3" not found' in text
    assert 'why: parts 5: CreateContainerConfigError: secret "s3" not found' in text
    assert not [task for task in found.tasks if task.name == "shard-part"]


def test_steps_that_the_server_does_not_count_are_seen_in_pods(api, tmp_path):
    """Its list stands still as soon as Argo compresses the states of the nodes."""
    api.runs[0]["state"] = "SUCCEEDED"
    stale = {"display_name": "pretrain", "state": "RUNNING", "start_time": "2026-11-24T10:00:00Z"}
    cached = {**stale, "display_name": "finetune-2", "state": "SUCCEEDED"}
    api.runs[0]["run_details"] = {"task_details": [stale, cached]}
    times = ["2026-11-24T10:00:01Z", "2026-11-24T10:00:02Z", "2026-11-24T10:00:03Z"]
    api.pods = [
        pod("p-1", "pretrain", ended(1)),
        pod("p-2", "pretrain", {"phase": "Succeeded"}),
        pod("p-3", "report", {"phase": "Succeeded"}),
        pod("p-4", "shard", {"phase": "Running"}),
    ]
    for one, time in zip(api.pods, times, strict=False):
        one["metadata"]["creationTimestamp"] = time
    api.pods[3]["metadata"]["annotations"]["pipelines.kubeflow.org/runtime-role"] = "driver"
    found = look(api, tmp_path)
    assert {task.name: task.state for task in found.tasks} == {
        "pretrain": "SUCCEEDED",
        "finetune-consistency": "SUCCEEDED",
        "report": "SUCCEEDED",
    }
    assert found.exit_code == 0


@pytest.mark.parametrize("compressed", [False, True])
def test_a_pod_that_is_gone_is_remembered_by_its_workflow(api, tmp_path, compressed):
    api.runs[0]["state"] = "FAILED"
    api.pods = [pod("p-1", "report", {"phase": "Succeeded"})]
    node = {
        "id": "wf-1-77",
        "name": "wf-1(0).root(0).exit-handler-1(0).finetune-2(0).executor(0)",
        "type": "Pod",
        "phase": "Failed",
        "message": "main: Error (exit code 143)\n",
    }
    group = {**node, "id": "wf-1-78", "type": "DAG"}
    driver = {**node, "id": "wf-1-79", "message": "quota exceeded", "phase": "Error"}
    driver["name"] = "wf-1(0).root(0).exit-handler-1(0).pretrain-driver(0)"
    nodes = {one["id"]: one for one in (node, group, driver)}
    packed = base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()
    status = {"compressedNodes": packed} if compressed else {"nodes": nodes}
    api.workflows = [{"metadata": {"name": "wf-1"}, "status": status}]
    text = "\n".join(look(api, tmp_path).lines())
    assert "why: finetune-consistency: its pod was taken away" in text
    assert "submit the run again under its name" in text
    assert "why: pretrain: failed: quota exceeded" in text
    assert text.count("why:") == 2


def test_a_step_that_names_itself_is_named_once(api, tmp_path):
    """Ours leaves its reason in the pod, with the step's name before it."""
    api.runs[0]["state"] = "FAILED"
    api.pods = [pod("p-1", "pretrain", ended(2, message="pretrain: the disk is full"))]
    text = "\n".join(look(api, tmp_path).lines())
    assert "why: pretrain: failed: the disk is full" in text


def test_a_quota_that_lets_no_pod_in(api, tmp_path):
    """No pod is there to be asked; the workflow's node knows."""
    said = 'pods "wf-1-7" is forbidden: exceeded quota: none, requested: pods=1, limited: pods=0'
    node = {
        "id": "wf-1-77",
        "name": "wf-1(0).root(0).exit-handler-1(0).pretrain(0).executor(0)",
        "type": "Pod",
        "phase": "Pending",
        "message": said,
    }
    again = {**node, "id": "wf-1-78", "message": said.replace("wf-1-7", "wf-1-8")}
    creating = {**node, "id": "wf-1-79", "message": "ContainerCreating"}
    nodes = {one["id"]: one for one in (node, again, creating)}
    api.workflows = [{"metadata": {"name": "wf-1"}, "status": {"nodes": nodes}}]
    found = look(api, tmp_path)
    text = "\n".join(found.lines())
    assert f"run digits-1 ({RUN_ID}) stands still" in text
    assert "why: pretrain: Kubernetes does not let its pod in: exceeded quota: none, req" in text
    assert text.count("why:") == 1
    assert found.exit_code == 1


def test_training_goes_on_beside_a_step_that_waits(api, tmp_path):
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
    }
    api.pods = [
        pod("p-1", "pretrain", {"phase": "Running"}),
        pod("p-2", "finetune-2", {"phase": "Pending", "conditions": [unschedulable]}),
    ]
    api.logs["p-1"] = "pretrain: 50/100 steps loss=1.5\n"
    text = "\n".join(look(api, tmp_path).lines())
    assert f"({RUN_ID}) goes on (pretrain) beside a step that waits\n" in text
    assert "why: finetune-consistency: no node can take it" in text


def test_a_step_that_waits_for_its_store(api, tmp_path):
    api.pods = [pod("p-1", "pretrain", {"phase": "Running"})]
    api.logs["p-1"] = (
        "pretrain: 50/100 steps loss=1.5\n"
        "waiting for S3 at minio:9000: NewConnectionError, trying again (7)\n"
    )
    found = look(api, tmp_path)
    text = "\n".join(found.lines())
    assert "stands still" in text
    assert "why: pretrain: waiting for S3 at minio:9000: NewConnectionError" in text
    api.logs["p-1"] += "pretrain: 51/100 steps loss=1.4\n"
    assert look(api, tmp_path).troubles == []


def test_a_driver_that_refuses_says_why(api, tmp_path):
    api.runs[0]["state"] = "FAILED"
    api.pods = [pod("p-1", "pretrain", ended(1, message="Error (exit code 1)"))]
    api.pods[0]["metadata"]["annotations"]["pipelines.kubeflow.org/runtime-role"] = "driver"
    api.logs["p-1"] = (
        "I1126 10:00:00.000001      13 main.go:108] input ComponentSpec:{}\n"
        "F1126 10:00:00.100000      13 main.go:79] KFP driver: driver.Container(...) failed: "
        "quantities must match the regular expression '^([+-]?[0-9.]+)'\n"
        'time=2026-11-26T10:00:01.000Z level=INFO msg="sub-process exited" argo=true\n'
        "Error: exit status 1\n"
    )
    text = "\n".join(look(api, tmp_path).lines())
    assert "quantities must match the regular expression" in text
    assert "level=INFO" not in text


def test_a_workflow_that_cannot_be_read_is_no_reason_to_fail(api, tmp_path):
    api.runs[0]["state"] = "FAILED"
    api.pods = [pod("p-1", "report", {"phase": "Succeeded"})]
    api.workflows = [{"status": {"compressedNodes": "not gzip"}}]
    assert "not seen: a failed pod" in "\n".join(look(api, tmp_path).lines())

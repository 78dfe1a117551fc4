"""The host process, and that nothing of a run outlives what it should."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import yaml

from epg.cluster.local import POD_VARIABLES, LocalSpec, compiled_pipeline, for_this_machine
from tests.toys.command import ROOT, epg, start_epg, wait_for, wait_until_none


def test_the_spec_comes_back(tmp_path):
    spec = LocalSpec("a.yaml", {"recipe": "digits", "overrides": {"a": 1}}, "runs/a")
    spec.write(tmp_path / "spec.json")
    assert LocalSpec.read(tmp_path / "spec.json") == spec


def test_the_checkout_s_own_pipeline_is_run():
    assert compiled_pipeline() == ROOT / "pipelines" / "epg_full.yaml"


def test_only_retries_and_the_pods_environment_are_left_out():
    compiled = compiled_pipeline().read_text()
    left = json.loads(for_this_machine(compiled))
    before = next(yaml.safe_load_all(compiled))
    for part in (before["root"], *before["components"].values()):
        for task in part.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    names = set()
    for executor in before["deploymentSpec"]["executors"].values():
        names |= {variable["name"] for variable in executor["container"].pop("env")}
    assert left == before
    assert "retryPolicy" in compiled
    assert names == set(POD_VARIABLES)
    assert "EPG_PUSHGATEWAY" in compiled
    assert "EPG_PUSHGATEWAY" not in json.dumps(left)  # the user's own is pushed to


def test_other_variables_stay():
    evaluate = compiled_pipeline("epg_evaluate.yaml").read_text()
    left = json.loads(for_this_machine(evaluate))["deploymentSpec"]["executors"]
    kept = {name: e["container"]["env"] for name, e in left.items() if "env" in e["container"]}
    reuse = [{"name": "EPG_REUSE_ONLY", "value": "1"}]
    assert kept == {"exec-finetune": reuse, "exec-pretrain": reuse}


def interrupted(tmp_path, number):
    """Start a run, send it a signal in mid-pretraining; return the process and its output."""
    process = start_epg(
        tmp_path, "run", "--recipe", "toy", "--no-consistency", TOY_SLEEP="pretrain:120"
    )
    try:
        wait_for(tmp_path / "runs" / "toy" / "pretrain.pid")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert wait_until_none(str(tmp_path)) == [], "orphans"
    return process, output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_training_save_and_leaves_no_process(tmp_path, number):
    process, output = interrupted(tmp_path, number)
    assert process.returncode == 128 + number
    assert (tmp_path / "runs" / "toy" / "pretrain.checkpoint").exists()
    assert "the same command goes on" in output
    assert "finetune-denoising: started" not in output


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_process_and_the_same_command_goes_on(tmp_path):
    process, _ = interrupted(tmp_path, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = epg(tmp_path, "run", "--recipe", "toy", "--no-consistency")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "shard: already done" in again.stdout
    assert "pretrain: done" in again.stdout


@pytest.mark.slow
def test_a_host_that_is_killed_takes_its_steps_along(tmp_path):
    process = start_epg(
        tmp_path, "run", "--recipe", "toy", "--no-consistency", TOY_SLEEP="pretrain:120"
    )
    try:
        step = int(wait_for(tmp_path / "runs" / "toy" / "pretrain.pid"))
        os.kill(os.getpgid(step), signal.SIGKILL)  # the host leads the group
        assert process.wait(timeout=60) == 1
    finally:
        process.kill()
    assert wait_until_none(str(tmp_path)) == []


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path):
    process = start_epg(
        tmp_path,
        "run",
        "--recipe",
        "toy",
        "--no-consistency",
        TOY_SLEEP="pretrain:120",
        TOY_DEAF="pretrain",
    )
    try:
        wait_for(tmp_path / "runs" / "toy" / "pretrain.pid")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "killed at once" in output
    assert wait_until_none(str(tmp_path)) == []

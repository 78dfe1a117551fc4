"""`epg doctor`: the store for real (moto, files), server and cluster against stand-ins."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from epg.cluster.doctor import store as store_checks
from epg.cluster.doctor.check import FAILED, OK, SKIPPED
from epg.cluster.doctor.cluster import secret_of_pipeline
from epg.cluster.doctor.doctor import DoctorRequest, doctor, examine
from epg.cluster.doctor.prometheus import check_prometheus
from epg.cluster.doctor.store import check_clock, check_store
from epg.store.local import LocalStore
from tests.s3_server import moto_server
from tests.toys.cluster_api import cluster_api


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("EPG_KFP_ENDPOINT", "KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api():
    with cluster_api() as stub:
        yield stub


def outcomes(checks):
    return {check.name: check.outcome for check in checks}


def test_local_files(tmp_path):
    found = outcomes(check_store(str(tmp_path)))
    assert found.pop("store: clock") == SKIPPED
    assert set(found.values()) == {OK}
    assert len(found) == 6
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.s3
def test_a_store_on_s3(monkeypatch):
    with moto_server() as server:
        server.set_environment(monkeypatch)
        server.make_bucket("doctor")
        found = outcomes(check_store(server.store_uri("doctor/runs")))
        assert set(found.values()) == {OK}, found
        assert found["store: clock"] == OK
        (failed,) = check_store(server.store_uri("absent"))
        assert failed.outcome == FAILED
        assert "absent" in failed.text


def test_a_store_that_is_not_there(monkeypatch):
    for name in ("EPG_S3_ACCESS_KEY", "EPG_S3_SECRET_KEY"):
        monkeypatch.setenv(name, "x" * 8)
    monkeypatch.setenv("EPG_S3_DEADLINE", "0")
    (failed,) = check_store("minio://127.0.0.1:1/bucket")
    assert failed.outcome == FAILED
    (failed,) = check_store("ftp://x")
    assert "unknown scheme" in failed.text


def test_a_store_that_replaces_against_the_condition(tmp_path, monkeypatch):
    put = LocalStore.put_bytes
    monkeypatch.setattr(
        LocalStore, "put_bytes", lambda self, key, data, if_absent=False: put(self, key, data)
    )
    found = {check.name: check for check in check_store(str(tmp_path))}
    assert found["store: conditional put"].outcome == FAILED
    assert "If-None-Match" in found["store: conditional put"].text


@pytest.mark.s3
def test_a_clock_that_is_wrong(monkeypatch):
    with moto_server() as server:
        server.set_environment(monkeypatch)
        ours = SimpleNamespace(time=lambda: time.time() + 3600)  # moto keeps the real one
        monkeypatch.setattr(store_checks, "time", ours)
        check = check_clock(server.store_uri("doctor"))
        assert check.outcome == FAILED
        assert "ahead of the store's" in check.text


def test_nothing_given_is_skipped(capsys):
    assert doctor(DoctorRequest()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {SKIPPED}


def test_a_cluster_in_good_health(api, tmp_path):
    name = secret_of_pipeline()
    assert name, "the pipeline has a parameter for the store's secret"
    api.secrets[name] = {"accesskey": "YQ==", "secretkey": "Yg=="}
    api.nodes = [{"metadata": {"name": "n1"}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}]
    request = DoctorRequest(endpoint=api.url, kubeconfig=api.kubeconfig(tmp_path))
    found = {check.name: check for check in examine(request)}
    for check in ("endpoint", "endpoint: token", "rights", "secret", "GPU nodes"):
        assert found[check].outcome == OK, found[check]
    assert "2.17.0" in found["endpoint"].text
    assert found["GPU nodes"].text == "n1: 8"


def test_a_cluster_that_lacks_everything(api, tmp_path, capsys):
    api.allowed, api.health = False, {"tag_name": "1.8.5"}
    api.nodes = [{"metadata": {"name": "n1"}, "status": {"allocatable": {}}}]
    request = DoctorRequest(
        endpoint=api.url,
        kubeconfig=api.kubeconfig(tmp_path),
        secret="s3",
        prometheus="http://127.0.0.1:1",
    )
    assert doctor(request) == 1
    out = capsys.readouterr().out
    assert "failed   endpoint " in out
    assert "1.8.5, too old" in out
    assert "failed   rights " in out
    assert "kubectl -n kubeflow create secret generic s3 --from-literal=accesskey=" in out
    assert "skipped  GPU nodes " in out
    assert "failed   metrics " in out


def test_a_secret_without_a_key(api, tmp_path):
    api.secrets["s3"] = {"accesskey": "YQ=="}
    request = DoctorRequest(kubeconfig=api.kubeconfig(tmp_path), secret="s3")
    found = {check.name: check for check in examine(request)}
    assert "s3 has no secretkey" in found["secret"].text


def test_a_wrong_token(api, tmp_path):
    api.token = "right"
    (first, *_) = examine(DoctorRequest(endpoint=api.url))
    assert first.outcome == FAILED
    assert "401" in first.text


def test_a_cluster_that_does_not_answer_is_told_once(api, tmp_path):
    kubeconfig = api.kubeconfig(tmp_path)
    text = (tmp_path / "kubeconfig").read_text().replace(api.url, "http://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(text)
    found = outcomes(examine(DoctorRequest(kubeconfig=kubeconfig)))
    assert [found[n] for n in ("rights", "secret", "GPU nodes")] == [FAILED, SKIPPED, SKIPPED]


def test_prometheus(api):
    answers = {"/api/v1/query": {"data": {"result": [{"value": [0, "42"]}]}}}
    api.kubernetes = lambda method, path, body: (200, answers[path])
    assert "42 series" in check_prometheus(api.url).text
    answers["/api/v1/query"] = {"data": {"result": []}}
    assert check_prometheus(api.url).outcome == OK
    api.kubernetes = lambda method, path, body: (404, {})
    assert check_prometheus(api.url).outcome == FAILED


def test_the_keys_that_are_looked_for_are_those_that_the_steps_get():
    from epg.cluster.doctor.cluster import _KEYS
    from pipelines import policy

    assert set(_KEYS) == set(policy.CREDENTIALS)

"""What is said while a run is followed: changes once, progress now and then, with what is left."""

from __future__ import annotations

import pytest

from epg.cluster.runs.following import News
from epg.cluster.runs.pods import Progress, connect, latest_lines, progress_in
from epg.cluster.runs.situation import Situation, Task
from tests.toys.cluster_api import cluster_api, pod


def look(state: str, done: int | None = None) -> Situation:
    progress = None if done is None else Progress(done, 1000, f"{done}/1000 steps loss=2.1")
    tasks = [Task("pretrain", state, progress=progress)]
    return Situation("id", "name", "RUNNING", "link", tasks=tasks)


def test_each_change_is_said_once_and_progress_every_half_minute():
    news = News()
    assert list(news.of(look("RUNNING"), 0)) == ["pretrain: running", "run running"]
    assert list(news.of(look("RUNNING", 100), 5)) == []  # nothing to reckon with yet
    assert list(news.of(look("RUNNING", 200), 15)) == []
    assert list(news.of(look("RUNNING", 400), 35)) == [
        "pretrain: 400/1000 steps loss=2.1, 1 min 00 s left"
    ]
    assert list(news.of(look("RUNNING", 450), 40)) == []
    assert list(news.of(look("RUNNING", 450), 400)) == [
        "pretrain: 450/1000 steps loss=2.1, 10 min 21 s left"
    ]
    assert list(news.of(look("SUCCEEDED"), 405)) == ["pretrain: succeeded"]


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        (
            "time=1 level=INFO\npretrain: 10/500 steps loss=2\npretrain: 20/500 steps loss=1\n",
            Progress(20, 500, "20/500 steps loss=1"),
        ),
        (
            "evaluate-denoising: 40/100 images images_per_second=9\nnoise\n",
            Progress(40, 100, "40/100 images images_per_second=9"),
        ),
        ("pretrain: started\n", None),
        ("", None),
    ],
)
def test_progress_is_read_from_the_log_of_a_running_pod(tmp_path, log, wanted):
    with cluster_api() as stub:
        stub.logs["p-1"] = log
        core = connect(stub.kubeconfig(tmp_path))
        lines = latest_lines(core, pod("p-1", "pretrain", {"phase": "Running"}))
        assert progress_in(lines) == wanted

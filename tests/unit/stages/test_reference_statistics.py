"""Real images, seen by one process or several, killed or not: the statistics are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from epg.data.reader import ShardReader
from epg.errors import UserError
from epg.evaluation import looking
from epg.evaluation.features import classifier
from epg.evaluation.features.base import Statistics
from epg.evaluation.reading import READ_BATCH, SplitImages, once
from epg.runs.record import StageRecord
from epg.runs.run import Run
from epg.stages.inputs import stored_manifest
from epg.stages.reference_statistics import reference_statistics
from epg.stages.shard import shard

SETTINGS = {"evaluate.reference": "train", "evaluate.classifier_epochs": 1}
SPANS = [(0, 512), (512, 1024), (1024, 1438)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run.open("smoke", SETTINGS, str(tmp_path_factory.mktemp("store")), "a-run")
    shard(run)
    return run


@pytest.fixture(scope="module")
def alone(run: Run) -> tuple[StageRecord, Statistics]:
    record = reference_statistics(run)
    return record, statistics(run, record)


def statistics(run: Run, record: StageRecord) -> Statistics:
    place = Path(run.store.uri)
    judge = classifier.load_classifier(place / record.outputs["classifier"]["key"])
    return Statistics.from_npz(place / record.outputs["statistics-classifier"]["key"], judge)


def assert_same(run: Run, record: StageRecord, alone: tuple[StageRecord, Statistics]) -> None:
    wanted, of_all = alone
    found = statistics(run, record)
    np.testing.assert_allclose(found.moments.mean, of_all.moments.mean, rtol=1e-9)
    covariances = found.moments.covariance, of_all.moments.covariance
    np.testing.assert_allclose(*covariances, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.features, of_all.features)
    assert record.metrics == pytest.approx(wanted.metrics, rel=1e-9)
    assert not list(run.store.list("reference-statistics/parts/"))


def test_spans_are_what_one_pass_gives_wherever_one_begins(run):
    reader = ShardReader(run.store, stored_manifest(run), "train")
    batches = list(once(reader))
    images = SplitImages(reader, torch.device("cpu"))
    for number in (1, 2, 0):
        start, end = SPANS[number]
        found = images.read(start, end).numpy()
        np.testing.assert_array_equal(found, batches[number][0])
        np.testing.assert_array_equal(images.labels[start:end], batches[number][1])
        assert (images.labels[: SPANS[0][1]] == -1).all() or number == 0
    assert SPANS[0][1] == READ_BATCH


def test_who_was_killed_goes_on(run, alone, monkeypatch):
    """Neither the classifier nor what it has seen is made again."""
    run.store.delete("stages/reference-statistics.json")
    read, spans, trained = SplitImages.read, [], []
    train = classifier.train_classifier

    def reading(until: int) -> None:
        def counted(self: SplitImages, start: int, end: int):
            if start >= until:
                raise KeyboardInterrupt
            spans.append((start, end))
            return read(self, start, end)

        monkeypatch.setattr(SplitImages, "read", counted)

    def training(*arguments, **named):
        trained.append(1)
        return train(*arguments, **named)

    monkeypatch.setattr(classifier, "train_classifier", training)
    monkeypatch.setattr(looking, "PART_SECONDS", 0.0)
    reading(until=1024)
    with pytest.raises(KeyboardInterrupt):
        reference_statistics(run)
    reading(until=10_000)
    record = reference_statistics(run)
    assert spans == [*SPANS, (0, 359)]  # the last: the classifier's own quality, held out
    assert trained == [1]
    assert_same(run, record, alone)


def test_several_processes_share_it(run, alone, monkeypatch):
    run.store.delete("stages/reference-statistics.json")
    monkeypatch.setenv("EPG_PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert_same(run, reference_statistics(run), alone)


def test_a_classifier_that_was_damaged_is_trained_again(run, alone, monkeypatch):
    run.store.delete("stages/reference-statistics.json")

    def dying(*arguments, **named):
        raise UserError("gone")

    with monkeypatch.context() as dies:
        dies.setattr(SplitImages, "read", dying)
        with pytest.raises(UserError, match="gone"):
            reference_statistics(run)
    (kept,) = (info.key for info in run.store.list("reference-statistics/parts/"))
    run.store.put_bytes(kept, run.store.get_bytes(kept)[:-9])
    assert_same(run, reference_statistics(run), alone)

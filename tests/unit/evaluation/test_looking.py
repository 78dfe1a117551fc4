"""Looking at images in parts: killed and resumed, or shared by processes, it is all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from epg.evaluation.features.base import Features, Figures
from epg.evaluation.features.describing import GROUP
from epg.evaluation.looking import RANKED, Look, kept_images, span_of
from epg.evaluation.metrics.inception_score import score
from epg.evaluation.metrics.moments import Scatter
from epg.evaluation.parts import Part, StoredParts, Stretch, Whole, share, uncovered
from epg.evaluation.progress import Running
from epg.store import open_store

COUNT, SPAN = 700, GROUP


class Looking:
    """A network whose features are mixed pixels, and whose classes are the first three."""

    figures: tuple[str, ...] = ()
    name = "pixels"
    width = 4
    weights_digest = ""
    preprocessing = ""

    def describe(self, images: torch.Tensor) -> Features:
        x = images.flatten(1).float() / 255
        return Features(x @ torch.eye(4).roll(1, 0) + x**2, 3 * x[:, :3], x[:, :2])

    def quality(self, real, labels) -> dict[str, float]:
        raise NotImplementedError

    def compare(self, real, found, labels) -> Figures:
        raise NotImplementedError


class Pixels:
    """Images that lie in memory."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (COUNT, 2, 2, 1), dtype=np.uint8)
        self.labels = rng.integers(0, 4, COUNT)
        self.read_spans: list[Stretch] = []

    def read(self, start: int, end: int) -> torch.Tensor:
        self.read_spans.append((start, end))
        return torch.from_numpy(self.images[start:end])


def look(source: Pixels, *, part_seconds: float = 600.0, keep: int = COUNT) -> Look:
    return Look(
        {"classifier": Looking(), "other": Looking()},
        source,
        keep=keep,
        first=100,
        judge="classifier",
        facts=lambda: {"spans": float(len(source.read_spans))},
        part_seconds=part_seconds,
    )


def running(store: Callable[[Part], None] | None = None) -> Running:
    return Running(COUNT, 0, "classifier", None, lambda *told: None, store=store)


def whole_of(parts: Sequence[Part]) -> Whole:
    return Whole.of(parts, RANKED)


@pytest.fixture(scope="module")
def plain() -> Whole:
    watch = running()
    look(Pixels()).at(uncovered(COUNT, SPAN, []), watch)
    (part,) = watch.parts
    assert part.stretch == (0, COUNT)
    return whole_of([part])


def assert_same(found: Whole, wanted: Whole, *, exact: bool = False) -> None:
    """Sums agree to 1e-9; what belongs to single images is the same."""
    tolerance = 0 if exact else 1e-9
    for kind in wanted.found:
        one, other = found.found[kind], wanted.found[kind]
        for a, b in ((one.moments, other.moments), (one.spatial, other.spatial)):
            assert a is not None
            assert b is not None
            np.testing.assert_allclose(a.mean, b.mean, rtol=tolerance)
            np.testing.assert_allclose(a.covariance, b.covariance, rtol=tolerance, atol=1e-12)
            assert a.count == b.count == COUNT
        assert score(one.splits) == pytest.approx(score(other.splits), rel=1e-12)
        for name in ("features", "predicted", "confidence"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in type(wanted.pictures).__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found.pictures, name), getattr(wanted.pictures, name))
    assert found.facts == wanted.facts


def test_pictures_are_the_first_and_the_ends_of_the_ranking(plain: Whole) -> None:
    source = Pixels()
    assert np.array_equal(plain.pictures.first, source.images[:100])
    sure = plain.found["classifier"].confidence
    assert np.array_equal(np.isnan(sure), source.labels == 3)  # a class that it does not know
    order = np.argsort(np.where(np.isnan(sure), np.inf, sure), kind="stable")
    wanted = [*order[:RANKED], *order[: (~np.isnan(sure)).sum()][-RANKED:]]
    assert plain.pictures.ranked_index.tolist() == wanted
    assert np.array_equal(plain.pictures.ranked, source.images[wanted])


@pytest.mark.parametrize("size", [1, 2, 3, 11, 20])
def test_shares_of_any_number_of_processes_make_the_same_whole(size: int, plain: Whole) -> None:
    spans = uncovered(COUNT, SPAN, [])
    shares = [share(spans, rank, size) for rank in range(size)]
    assert [span for own in shares for span in own] == spans
    parts: list[Part] = []
    for own in reversed(shares):  # whoever is first
        watch = running()
        look(Pixels()).at(own, watch)
        parts += watch.parts
    assert_same(whole_of(parts), plain)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dies_after", [1, 4, 10])
def test_whoever_is_killed_is_followed_by_one_who_goes_on(
    dies_after: int, tmp_path: Path, plain: Whole
) -> None:
    stored = StoredParts(open_store(str(tmp_path)), "parts/f")

    class Dying(Running):
        def seen(self, count: int, sums: Callable[[], Mapping[str, Scatter]]) -> None:
            super().seen(count, sums)
            if self._count >= dies_after * SPAN:
                raise Killed

    first = Pixels()
    watch = Dying(COUNT, 0, "classifier", None, lambda *told: None, store=stored.put)
    with pytest.raises(Killed):
        look(first, part_seconds=0.0).at(uncovered(COUNT, SPAN, []), watch)
    known = stored.read()
    assert len(known) == dies_after - 1  # the last one was not stored
    left = uncovered(COUNT, SPAN, [part.stretch for part in known])
    second = Pixels()
    look(second).at(left, running(stored.put))
    assert second.read_spans == left
    assert_same(whole_of(stored.read()), plain)
    stored.clear()
    assert stored.read() == []


def test_damaged_and_overlapping_parts_are_made_again(tmp_path: Path, plain: Whole) -> None:
    store = open_store(str(tmp_path))
    stored = StoredParts(store, "parts/f")
    look(Pixels(), part_seconds=0.0).at(uncovered(COUNT, SPAN, []), running(stored.put))
    names = [info.key for info in store.list("parts/f/")]
    assert len(names) == -(-COUNT // SPAN)
    good = store.get_bytes(names[3])
    store.put_bytes(names[3], good[: len(good) // 2])
    flipped = bytearray(store.get_bytes(names[5]))
    flipped[len(flipped) // 2] ^= 4
    store.put_bytes(names[5], bytes(flipped))
    store.put_bytes(names[7], store.get_bytes(names[8]))  # under another name
    store.put_bytes("parts/f/notes.txt", b"?")
    known = [part.stretch for part in stored.read()]
    left = uncovered(COUNT, SPAN, known)
    assert left == [(i * SPAN, (i + 1) * SPAN) for i in (3, 5, 7)]
    watch = running(stored.put)
    look(Pixels()).at(left, watch)
    assert_same(whole_of(stored.read()), plain)


def test_features_beyond_the_bound_are_not_kept() -> None:
    watch = running()
    look(Pixels(), keep=100).at(uncovered(COUNT, SPAN, []), watch)
    found = whole_of(watch.parts).found["classifier"]
    assert len(found.features) == 100
    assert found.moments.features is None
    assert found.moments.count == COUNT


def test_progress_comes_with_an_estimate(plain: Whole) -> None:
    from epg.evaluation.metrics.frechet import frechet_distance

    told: list[tuple[int, int, dict[str, float]]] = []
    real = plain.found["classifier"]
    watch = Running(
        COUNT, 0, "classifier", real, lambda *values: told.append(values), rate=lambda: 5.0
    )
    look(Pixels(), part_seconds=0.0).at(uncovered(COUNT, SPAN, []), watch)
    assert [done for done, _, _ in told] == [min((i + 1) * SPAN, COUNT) for i in range(11)]
    assert told[-1][1:] == (COUNT, {"images_per_second": 5.0, "distance": pytest.approx(0, abs=1)})
    early, late = told[2][2]["distance"], told[9][2]["distance"]
    assert early > late > 0  # it comes near the set itself
    count = told[2][0]
    first = [part for part in watch.parts if part.stretch[1] <= count]
    pool = Scatter.joined(part.seen["classifier"].pool for part in first).moments()
    assert early == pytest.approx(frechet_distance(real.moments, pool), rel=0.5)


def test_progress_is_that_of_all_processes() -> None:
    told: list[tuple[int, int]] = []
    watch = Running(401, 100, "x", None, lambda done, of, _: told.append((done, of)), 151 / 301)
    for count in (64, 64, 23):
        watch.seen(count, dict)
    assert told == [(228, 401), (355, 401), (401, 401)]


@pytest.mark.parametrize(("batch", "span"), [(1, 64), (64, 64), (100, 64), (250, 192), (256, 256)])
def test_spans_are_whole_groups(batch: int, span: int) -> None:
    assert span_of(batch) == span


def test_small_images_are_all_kept_and_large_ones_by_size() -> None:
    assert kept_images(1000, 64) == 1000
    assert kept_images(50_000, 256 * 256 * 3) == 325
    assert kept_images(50_000, 10**9) == 1

"""Two figures may be compared exactly when the hashes of their protocols are equal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from epg.measures import FIGURES
from epg.protocol import FACTS, HASHES, FeatureSpace, Protocol, Reference, incomparable

SPACES = {
    "inception": FeatureSpace("inception-2015-12-05", "a" * 64),
    "classifier": FeatureSpace("digits-cnn", "b" * 64),
}
REFERENCE = Reference("train", 1_281_167, "c" * 64, "imagenet")
PROTOCOL = Protocol(
    SPACES,
    {"inception": REFERENCE, "classifier": REFERENCE, "": REFERENCE},
    50_000,
    "balanced",
    3,
)
COSTS = {"nfe", "num_samples", "images_per_second", "parameters", "gmacs"}
NAMES = dict.fromkeys(FIGURES, 1.0)


def details(protocol: Protocol) -> dict:
    told = {FACTS: protocol.facts(), HASHES: protocol.hashes(NAMES)}
    return json.loads(json.dumps(told))


def changed(**other: object) -> set[str]:
    """Names of the figures that a change keeps from being compared."""
    one, two = PROTOCOL.hashes(NAMES), replace(PROTOCOL, **other).hashes(NAMES)  # type: ignore[arg-type]
    return {name for name in one if one[name] != two[name]}


def test_every_verdict_has_a_hash_and_no_cost_has() -> None:
    assert set(PROTOCOL.hashes(NAMES)) == set(FIGURES) - COSTS
    assert len(set(PROTOCOL.hashes({"fid": 1, "sfid": 1}).values())) == 2


def test_each_figure_depends_on_what_it_is_made_of() -> None:
    everything = set(FIGURES) - COSTS
    of_quality = {"classifier_held_out_accuracy"}
    assert changed(num_samples=10_000) == everything - of_quality
    assert changed(labels="random") == everything - of_quality
    precision = {name for name in FIGURES if name.startswith(("precision", "recall"))}
    assert changed(neighbours=5) == precision
    assert changed(svc={"gamma": 0.001}) == {"svc_agreement"}
    other = {**SPACES, "inception": FeatureSpace("inception-2015-12-05", "d" * 64)}
    by_inception = {n for n, m in FIGURES.items() if PROTOCOL.network_of(m) == "inception"}
    assert {"fid", "sfid", "kid", "inception_score"} < by_inception
    assert changed(networks=other) == by_inception


@pytest.mark.parametrize(
    "reference",
    [
        Reference("held-out", 1_281_167, "c" * 64),
        Reference("train", 50_000, "c" * 64),
        Reference("train", 1_281_167, "d" * 64),
    ],
)
def test_another_reference_is_another_figure(reference: Reference) -> None:
    references = {**PROTOCOL.references, "inception": reference}
    found = changed(references=references)
    assert "fid" in found
    assert not found & {"inception_score", "frechet_distance", "class_agreement"}


def test_where_images_come_from_is_no_part_of_it() -> None:
    moved = replace(REFERENCE, source="folder:/elsewhere")
    assert changed(references=dict.fromkeys(PROTOCOL.references, moved)) == set()


def test_why_two_figures_may_not_be_compared_is_said() -> None:
    ours = details(PROTOCOL)
    assert incomparable("fid", ours, details(PROTOCOL)) == ""
    few = details(replace(PROTOCOL, num_samples=10_000))
    assert incomparable("fid", ours, few) == "num_samples is 50000, not 10000"
    assert incomparable("nfe", ours, few) == ""
    assert incomparable("fid", ours, {}) == "no protocol is known of it"
    assert incomparable("fid", ours, {HASHES: []}) == "no protocol is known of it"
    spaces = {**SPACES, "inception": FeatureSpace("inception-2015-12-05", "d" * 64)}
    reason = incomparable("fid", ours, details(replace(PROTOCOL, networks=spaces)))
    assert reason == "networks.inception.weights is aaaaaaaaaaaa..., not dddddddddddd..."


def test_a_further_network_measures_the_same_figure_as_when_it_is_the_first() -> None:
    turned = replace(PROTOCOL, networks=dict(reversed(SPACES.items())))
    one, other = PROTOCOL.hashes(NAMES), turned.hashes(NAMES)
    assert one["precision"] == other["precision_inception"]
    assert one["precision_classifier"] == other["precision"]

"""Published results stand beside ours, and it is said with what ours may be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from epg.protocol import FACTS
from epg.report.comparison import incomparable_with_published, published_tables
from epg.report.facts import RunFacts
from epg.report.page import render_page
from tests.unit.report.example import example
from tests.unit.report.pages import check_page

REFERENCE = {"split": "train", "num_images": 1_281_167, "digest": "d", "source": "imagenet:x"}


def imagenet(source: str = "imagenet:/data", **changes: Any) -> RunFacts:
    """The example, as if it were of 256 pixels and of ImageNet."""
    facts = example()
    data = facts.recipe.data.model_copy(update={"image_size": 256})
    told = {"num_samples": 50_000, "references": {"inception": REFERENCE}, **changes}
    details = {"feature_networks": {"inception": "inception-2015-12-05"}, FACTS: told}
    stage = "evaluate-denoising"
    metrics = {"fid": 2.5, "inception_score": 250.0, "precision": 0.8, "recall": 0.55, "nfe": 75}
    metrics |= {"parameters": 582_986_064}
    record = replace(facts.records[stage], metrics=metrics, details=details)
    assert facts.dataset is not None
    return replace(
        facts,
        recipe=facts.recipe.model_copy(update={"data": data}),
        records={**facts.records, stage: record},
        dataset=replace(facts.dataset, source=source),
    )


def test_small_images_have_no_published_rows() -> None:
    assert published_tables(example()) == []


def test_ours_stands_above_the_published_rows() -> None:
    table = published_tables(imagenet())[0]
    ours, papers = table["rows"][0], table["rows"][1]
    assert ours.ours
    cells = dict(zip(table["columns"], ours.cells, strict=True))
    assert (cells["NFE"], cells["Params"], cells["FID"]) == ("75", "583 M", "2.50")
    assert (cells["Prec"], cells["Rec"]) == ("0.800", "0.550")
    assert (papers.name, papers.source) == ("EPG-XL/16", "arXiv 2510.12586")
    assert "measured as these rows were" in table["notes"][0]
    assert "EPG-XL/16" in table["notes"][0]
    text = check_page(render_page(imagenet())).text
    for words in ("Beside published results", "DiT-XL/2", "not verified at its source"):
        assert words in text


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (imagenet(), ""),
        (imagenet(num_samples=10_000), "10,000 samples, not 50,000"),
        (imagenet(references={"inception": {**REFERENCE, "split": "held-out"}}), "held-out images"),
        (imagenet(references={}), "FID was not measured"),
        (imagenet("folder:/photos"), "the images are of folder, not ImageNet's"),
    ],
)
def test_why_ours_may_not_be_compared(facts: RunFacts, reason: str) -> None:
    found = "; ".join(incomparable_with_published(facts, "denoising"))
    assert (reason in found) if reason else found == ""

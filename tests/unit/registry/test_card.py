from __future__ import annotations

from typing import Any

import pytest
import yaml

from epg.registry.card import CardFacts, code_span, escape_markdown, render_card


def facts(**more: Any) -> CardFacts:
    given: dict[str, Any] = {
        "model": "digits-consistency",
        "objective": "consistency",
        "recipe_name": "digits",
        "description": "Handwritten digits",
        "data": {
            "source": "digits",
            "image_size": 8,
            "channels": 1,
            "classes": [str(n) for n in range(10)],
            "train": 1440,
            "held_out": 357,
        },
        "settings": {"seed": 0, "fine-tuning": "600 steps of 128 images"},
        "metrics": {
            "svc_agreement": 0.8812,
            "frechet_distance": 9.8765,
            "parameters": 1_234_567,
            "nfe": 1,
            "own_metric": 2.5,
            "reason": "text is no metric",
        },
        "features": {"classifier": "digits-cnn"},
        "versions": {"epg": "0.1.0"},
    }
    return CardFacts(**{**given, **more})


def test_head_is_yaml_that_hubs_read() -> None:
    _, head, body = render_card(facts()).split("---\n", 2)
    content = yaml.safe_load(head)
    assert content["library_name"] == "epg"
    assert "consistency" in content["tags"]
    (result,) = content["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["svc_agreement"] == 0.8812
    assert "reason" not in values
    names = {metric["type"]: metric["name"] for metric in result["metrics"]}
    assert names["frechet_distance"] == "frechet_distance (digits-cnn)"
    assert body.startswith("\n# digits-consistency\n")


def test_body_says_what_how_good_and_how_to_use_it() -> None:
    card = render_card(facts())
    assert "epg sample --model digits-consistency" in card
    assert "images of 8×8 pixels\n(1 channel) in 10 classes" in card
    assert "Training images: 1440; held out for evaluation, never trained on: 357\n" in card
    assert "- Classes: `0`, `1`, `2`" in card
    assert "| `svc_agreement` | 88.1 % | Share of generated images that an independent" in card
    assert (
        "| `frechet_distance` | 9.88 | Fréchet distance in features of `digits-cnn`; lower" in card
    )
    assert "| `parameters` | 1,234,567 |" in card
    assert "own_metric" not in card
    assert "| fine-tuning | 600 steps of 128 images |" in card
    for part in ("## Limits", "## Licence", "## Data", "recipe.yaml"):
        assert part in card


def test_many_classes_and_colours() -> None:
    data = {**facts().data, "channels": 3, "classes": [f"class {n}" for n in range(1000)]}
    card = render_card(facts(data=data))
    assert "(3 channels) in 1000 classes" in card
    assert "`class 49`, ...\n" in card
    assert "`class 50`" not in card


def test_tables_are_whole() -> None:
    lines = render_card(facts()).splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|"):
            columns = lines[number - 1].count("|") if lines[number - 1].startswith("|") else 0
            assert columns in (0, line.count("|"))


HOSTILE = "<script>alert(1)</script> [x](http://evil) `a` | **b** {{ 7*7 }}\n# Title\n---"


@pytest.mark.parametrize("where", ["description", "recipe_name", "features", "settings", "data"])
def test_hostile_text_is_shown_as_text(where: str) -> None:
    given: Any = HOSTILE
    if where == "settings":
        given = {HOSTILE: HOSTILE}
    if where == "features":
        given = {"classifier": HOSTILE, "inception": HOSTILE}
    if where == "data":
        given = {**facts().data, "source": HOSTILE, "classes": [HOSTILE, "1"]}
    card = render_card(facts(**{where: given}))
    body = card.split("---\n", 2)[2]
    assert yaml.safe_load(card.split("---\n", 2)[1])["library_name"] == "epg"
    outside_code = "".join(body.split("`")[::2])
    assert "<script>" not in outside_code
    assert "[x](" not in outside_code
    assert "\n# Title" not in body
    assert "49" not in body


def test_escaping() -> None:
    assert escape_markdown("a_b *c* <d> &amp;\n\x1b[0m") == (r"a\_b \*c\* &lt;d&gt; &amp;amp; \[0m")
    assert code_span("a`b|c\nd") == "`a'b¦c d`"


def test_fid_is_only_named_where_it_is_one() -> None:
    card = render_card(
        facts(metrics={"fid": 2.04, "num_samples": 50_000}, features={"inception": "Inception v3"})
    )
    assert "in the features of `Inception v3`.\n" in card
    assert "| `fid` | 2.04 | Fréchet distance in Inception's" in card
    assert "frechet_distance" not in card

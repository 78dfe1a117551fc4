from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import epg.report
from epg.protocol import FACTS, HASHES, FeatureSpace, Protocol, Reference
from epg.report.ending import describe_end
from epg.report.facts import Dataset, Failure, FinalStatus, RunFacts, branch_state, next_stages
from epg.report.images import embed, sheet_png
from epg.report.page import render_page
from epg.report.results import copies_reading, shown_labels
from epg.report.story import next_commands, timeline
from epg.runs.stage import Stage
from epg.stages.findings import shown_stages
from tests.unit.report.example import by_class, evaluation, example, record
from tests.unit.report.pages import Page, check_page

FAILURE = Failure("finetune-consistency", "loss is not finite at step 420 (a: nan)", 2e9)


def without(facts: RunFacts, *words: str) -> RunFacts:
    """The same run without the stages and pictures whose names hold one of the words."""

    def keep(name: str) -> bool:
        return not any(word in name for word in words)

    return replace(
        facts,
        records={k: v for k, v in facts.records.items() if keep(k)},
        images={k: v for k, v in facts.images.items() if keep(k)},
        sheets={k: v for k, v in facts.sheets.items() if keep(k)},
        strips={k: v for k, v in facts.strips.items() if keep(k)},
        series={k: v for k, v in facts.series.items() if keep(k)},
    )


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_a_finished_run_shows_everything() -> None:
    html = render_page(example())
    page = check_page(html)
    text = words(page)
    for told in (
        "Both models passed their gate.",
        "96.2 %",
        "in features of digits-cnn",
        "Samples are not copies.",
        "From noise to image",
        "✓ gate ≥ 93.0 %",
        "svc_agreement ≥ 0.93 and nearest_neighbour_ratio ≥ 0.7 are met",
        "6 min 07 s",
        "sha256:3f7a1c0be41d5ab0c7e9d2b7f6a80d1e5c93b24f7706e1ad94c2a6b1d0e8f735",
        "a1b2c3d4e5f6",
        "epg sample --model digits-denoising --num 64 --out grid.png",
        "kfp --endpoint URL run submit -e epg -f pipelines/epg_full.yaml recipe=digits",
        "embed_dim: 128",
    ):
        assert told in text
    assert len(html.encode()) < 2_000_000
    assert sum(tag == "svg" for tag, _ in page.tags) == 3 + 3 * 3  # losses; rate, norm, speed
    assert sum(tag == "img" for tag, _ in page.tags) == 2 + 1 + 30


def test_how_figures_were_measured_stands_beside_them() -> None:
    reference = Reference("held-out", 359, "c" * 64, "digits")
    protocol = Protocol(
        {"classifier": FeatureSpace("digits-cnn", "b" * 64)},
        {"classifier": reference, "": reference},
        1000,
        "random",
        3,
    )
    facts = example()
    old = facts.records["evaluate-denoising"]
    details = {
        **old.details,
        FACTS: protocol.facts(),
        HASHES: protocol.hashes(old.metrics),
        "intervals": {"frechet_distance": [3.1234, 3.6789]},
        "warnings": ["few <images>"],
    }
    plain = words(check_page(render_page(facts)))
    assert "Measured on generated images. ↑" in plain
    assert "compared exactly when their hashes are equal" not in plain
    judged = replace(old, details=details)
    facts = replace(facts, records={**facts.records, judged.stage: judged})
    text = words(check_page(render_page(facts)))
    assert "Measured on 1,000 generated images of classes drawn at random. ↑" in text
    assert "3.12 to 3.68" in text
    assert "few <images>" in text
    assert f"Fréchet distance (own classifier) {details[HASHES]['frechet_distance']} –" in text
    assert f"digits-cnn, weights {'b' * 64}" in text
    assert f"held-out of digits, 359 images, {'c' * 64}" in text


def test_a_frechet_distance_in_other_features_is_never_called_fid() -> None:
    assert not re.search(r"\bFID\b", words(check_page(render_page(example()))))


def test_strange_names_are_shown_as_text() -> None:
    nasty = "</style></pre><script>alert('x')</script>{{ 7*7 }}{% raw %}\n\x00\"'>&amp;"
    facts = example()
    records = {
        stage: replace(
            record,
            metrics={k: nasty if isinstance(v, str) else v for k, v in record.metrics.items()},
            versions={**record.versions, nasty: nasty},
        )
        for stage, record in facts.records.items()
    }
    bad = replace(
        facts,
        name=nasty,
        store_uri=nasty,
        recipe_text=nasty,
        recipe_argument=nasty,
        settings=[f"data.source={nasty}"],
        records={k: v for k, v in records.items() if not k.startswith("register-c")},
        failures={"register-consistency": Failure("register-consistency", nasty, 2e9)},
        dataset=Dataset(nasty, 8, 1, [nasty] * 10, {nasty: 3}),
        notes=[nasty],
    )
    html = render_page(bad)
    page = check_page(html)
    assert "<script>alert('x')</script>{{ 7*7 }}{% raw %}" in page.text
    assert "alert('x')" not in page.styles
    assert ">49<" not in html


def test_a_failed_run_tells_where_and_why_and_keeps_what_there_is() -> None:
    facts = replace(
        without(example(), "consistency"),
        failures={FAILURE.stage: FAILURE},
        status=FinalStatus("FAILED"),
    )
    text = words(check_page(render_page(facts)))
    assert "The run failed at finetune-consistency." in text
    assert FAILURE.message in text
    assert "This branch failed before it had samples." in text
    assert "96.2 %" in text


def test_a_failure_that_was_mended_is_not_told() -> None:
    old = replace(FAILURE, time=1.0)
    assert describe_end(replace(example(), failures={old.stage: old})).kind == "succeeded"


def test_a_failed_run_without_a_message_names_the_stage_without_a_result() -> None:
    facts = replace(
        without(example(), "finetune", "evaluate", "gate", "register"),
        status=FinalStatus("FAILED", "deadline exceeded"),
    )
    end = describe_end(facts)
    assert end.kind == "failed"
    assert "finetune-denoising and finetune-consistency" in end.sentence
    assert "deadline exceeded" in end.sentence


def test_a_terminated_run_is_called_stopped() -> None:
    facts = replace(without(example(), "consistency"), status=FinalStatus("RUNNING"))
    assert describe_end(facts).kind == "stopped"


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("SUCCEEDED", "succeeded", "No generator was asked for."),
        ("RUNNING", "unfinished", "No generator was asked for, or the run was ended before."),
    ],
)
def test_a_run_without_a_generator_is_not_called_stopped(state: str, kind: str, said: str) -> None:
    facts = without(example(), "finetune", "evaluate", "gate", "register")
    end = describe_end(replace(facts, status=FinalStatus(state)))
    assert end.kind == kind
    assert said in end.sentence
    earlier = without(facts, "pretrain")
    assert said not in describe_end(replace(earlier, status=FinalStatus(state))).sentence


@pytest.mark.parametrize("status", [None, FinalStatus("SUCCEEDED")])
def test_a_branch_that_was_not_wanted_has_no_place(status: FinalStatus | None) -> None:
    facts = replace(without(example(), "consistency"), status=status)
    assert branch_state(facts, "consistency") == "not wanted"
    assert describe_end(facts).kind == "succeeded"
    page = check_page(render_page(facts))
    assert "One-step consistency model" not in page.text
    rows = {row["stage"]: row["words"] for row in timeline(facts)["rows"]}
    assert rows["finetune-consistency"] == "not wanted"
    assert (
        "denoising.steps=2400"
        in dict(next_commands(facts))["Train longer (diffusion, twice the steps)"]
    )


def test_a_model_that_did_not_pass_is_not_called_registered() -> None:
    facts = without(example(), "register-consistency")
    gate = record("gate-consistency", 0.1, {"verdict": "fail", "reason": "0.62 < 0.85"})
    evaluated = replace(
        facts.records["evaluate-consistency"], metrics=evaluation(0.62, 1, 5000.0, 40.0)
    )
    records = {**facts.records, gate.stage: gate, evaluated.stage: evaluated}
    facts = replace(facts, records=records)
    text = words(check_page(render_page(facts)))
    assert "did not and was not registered" in text
    assert "✗ gate ≥ 85.0 %" in text
    assert "0.62 < 0.85" in text
    assert "gate said no" in text


def test_a_run_without_any_result_still_has_a_page() -> None:
    facts = RunFacts(name="empty", store_uri="runs", recipe=example().recipe, stages=shown_stages())
    text = words(check_page(render_page(facts)))
    assert "Not every stage has a result yet: no result of shard." in text


def test_samples_near_training_images_are_called_so() -> None:
    facts = example()
    near = replace(
        facts.records["evaluate-denoising"],
        metrics={**facts.metrics("evaluate", "denoising"), "nearest_neighbour_ratio": 0.3},
    )
    reading = copies_reading(replace(facts, records={**facts.records, near.stage: near}))
    assert reading is not None
    assert not reading["good"]
    assert "look for copies" in reading["title"]


def test_reused_stages_are_marked() -> None:
    facts = replace(example(), reused=frozenset({"shard", "pretrain"}))
    states = {row["stage"]: row["state"] for row in timeline(facts)["rows"]}
    assert states["pretrain"] == "reused"
    assert states["finetune-denoising"] == "done"
    assert "Hatched stages were reused" in render_page(facts)


def test_the_page_tells_of_the_stages_that_it_is_given() -> None:
    facts = example()
    export = Stage("export", "export", "", "training", ("pretrain",))
    facts = replace(
        facts, stages=(*facts.stages, export), series={"export": facts.series["pretrain"]}
    )
    assert [row["stage"] for row in timeline(facts)["rows"]][-2:] == [
        "register-consistency",
        "export",
    ]
    assert [stage.name for stage in next_stages(facts)] == ["export"]
    assert sum(tag == "svg" for tag, _ in check_page(render_page(facts)).tags) == 1 + 3


def test_a_thousand_classes_of_large_images_stay_below_two_megabytes() -> None:
    random = np.random.default_rng(0)
    facts = example()
    noisy = random.integers(0, 256, (1024, 1024, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "PNG")
    strip = sheet_png([random.integers(0, 256, (8, 64, 64, 3), np.uint8)])
    records = dict(facts.records)
    for objective in facts.objectives:
        stage = f"evaluate-{objective}"
        details = {"svc_agreement_by_class": [*by_class(0.5, 500), None, *by_class(0.9, 499)]}
        records[stage] = replace(records[stage], details=details)
    facts = replace(
        facts,
        records=records,
        dataset=Dataset("imagenet", 256, 3, [f"class {k}" for k in range(1000)], {"train": 9}),
        images=dict.fromkeys(facts.images, buffer.getvalue()),
        sheets={},
    )
    labels = shown_labels(facts)
    assert len(labels) == 20
    assert max(labels) < 500
    strips = dict.fromkeys(labels, strip)
    facts = replace(facts, strips=dict.fromkeys(("real", *facts.objectives), strips))
    html = render_page(facts)
    assert "980 more did better" in words(check_page(html))
    assert len(html.encode()) < 2_000_000


@pytest.mark.parametrize("png", [b"", b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n" + bytes(4)])
def test_what_is_no_picture_is_left_out(png: bytes) -> None:
    assert embed(png) is None


def test_a_sheet_keeps_the_pixels_of_its_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with Image.open(io.BytesIO(sheet_png([images, images[:2]]))) as opened:
        pixels = np.asarray(opened)
    assert pixels.shape == (17, 26, 4)
    assert (pixels[9:, 9:17, 0] == images[1, :, :, 0]).all()
    assert pixels[0, 8, 3] == 0
    assert pixels[9, 18, 3] == 0


def test_the_commands_repeat_the_run_with_its_settings_and_its_store() -> None:
    facts = replace(
        example(),
        name="night 1",
        store_uri="minio://minio:9000/epg/a b",
        settings=["denoising.steps=7", 'data.source="folder:/x y"'],
    )
    command = dict(next_commands(facts))["Resume, or see this run again"]
    assert "--run-name 'night 1'" in command
    assert "--store 'minio://minio:9000/epg/a b'" in command
    assert """--set 'data.source="folder:/x y"'""" in command
    local = replace(facts, store_uri="file:///data/out")
    assert "--output /data/out" in dict(next_commands(local))["Resume, or see this run again"]


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    style = (Path(epg.report.__file__).parent / "templates" / "style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    pairs = [
        (text, ground)
        for text in (
            "ink",
            "muted",
            "shared",
            "denoising",
            "consistency",
            "c1",
            "c2",
            "c3",
            "c4",
            "good",
            "bad",
        )
        for ground in ("paper", "card")
    ] + [("good", "good-tint"), ("bad", "bad-tint"), ("ink", "warn-tint"), ("muted", "faint")]
    for palette in (light, {**light, **dark}):
        for text, ground in pairs:
            high, low = sorted((luminance(palette[text]), luminance(palette[ground])))[::-1]
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)

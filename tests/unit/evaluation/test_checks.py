"""What is known to be wrong with an evaluation before anything is trained."""

from __future__ import annotations

import pytest

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.evaluation.checks import check_data

COLOUR = {"data.channels": 3, "data.mean": [0.5] * 3, "data.std": [0.5] * 3}


def refused(train: int, held_out: int, overrides: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        check_data(load_recipe("smoke", overrides), train, held_out)
    return str(caught.value)


def test_digits_are_fine():
    check_data(load_recipe("smoke"), 1437, 360)


def test_too_few_images_to_compare_with():
    assert "--set evaluate.neighbours=1" in refused(100, 2, {})


def test_a_judge_on_raw_pixels_that_would_take_all_memory():
    """CIFAR-10 and larger: 50,000 x 3,072 numbers."""
    said = refused(50_000, 10_000, {**COLOUR, "data.image_size": 32, "model.patch_size": 4})
    assert "50,000 training images of 32 x 32 x 3 take 1.1 GiB" in said
    assert "--set evaluate.svc=null" in said
    kept_out = {**COLOUR, "data.image_size": 32, "model.patch_size": 4, "evaluate.svc": None}
    check_data(load_recipe("smoke", kept_out), 50_000, 10_000)


def test_a_judge_of_one_class():
    assert "data.num_classes is 1" in refused(100, 20, {"data.num_classes": 1})


@pytest.mark.parametrize(("network", "width"), [("classifier", "64"), ("inception", "2,048")])
def test_no_more_images_than_features(network: str, width: str):
    count = int(width.replace(",", ""))
    few: dict[str, object] = {"evaluate.networks": [network], "evaluate.num_samples": count}
    said = refused(3000, 3000, few)
    assert f"{width} images are no more than the {width} features of {network}" in said
    assert "evaluate.few=true" in said
    enough = {**few, "evaluate.num_samples": count + 1}
    check_data(load_recipe("smoke", enough), 3000, 3000)
    check_data(load_recipe("smoke", {**few, "evaluate.few": True}), 3000, 3000)

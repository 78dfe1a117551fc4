"""The sampler's settings: made by a recipe, changed with a check, refused in one line."""

from __future__ import annotations

import json

import pytest

from epg.config.loading import load_recipe
from epg.config.sampling import SamplingConfig
from epg.errors import UserError


def sampling(objective: str = "denoising") -> SamplingConfig:
    return load_recipe("digits").sampling(objective)


def test_a_recipe_hands_on_all_that_a_sampler_needs() -> None:
    recipe = load_recipe("digits", {"denoising.guidance_interval": [0.3, 4]})
    found = recipe.sampling("denoising")
    assert found.steps == recipe.denoising.sampling_steps
    assert found.guidance_scale == recipe.denoising.guidance_scale
    assert found.guidance_interval == (0.3, 4.0)
    assert found.sigma_shift == recipe.sigma_shift
    assert (found.sigma_min, found.sigma_max) == (0.02, 80.0)
    one_step = recipe.sampling("consistency")
    assert (one_step.steps, one_step.guidance_scale, one_step.revisited) == (1, 1.0, ())


def test_json_and_back_is_the_same_value() -> None:
    for objective in ("denoising", "consistency"):
        text = json.dumps(sampling(objective).model_dump(mode="json"))
        assert SamplingConfig.checked(json.loads(text)) == sampling(objective)


def test_a_changed_copy_leaves_the_rest() -> None:
    before = sampling()
    after = before.changed(steps=7, guidance_scale=None)
    assert after.steps == 7
    assert after.changed(steps=before.steps) == before
    assert before.changed() == before


def test_levels_of_few_steps_are_added_in_order_and_visited_from_high_to_low() -> None:
    levels = [sampling("consistency").changed(steps=n).revisited for n in (1, 2, 3, 5)]
    assert levels == [(), (0.8,), (2.5, 0.8), (10.0, 2.5, 0.8, 0.3)]


@pytest.mark.parametrize(
    ("objective", "changes", "fragments"),
    [
        ("denoising", {"steps": 1}, ["steps is 1", "2 or more"]),
        ("denoising", {"steps": 0}, ["steps is 0", "greater than or equal to 1"]),
        ("denoising", {"guidance_scale": 0.5}, ["guidance_scale is 0.5"]),
        ("denoising", {"guidance_scale": float("nan")}, ["guidance_scale is nan", "finite"]),
        ("denoising", {"guidance_interval": [2, 0.1]}, ["guidance_interval", "low < high"]),
        ("denoising", {"sigma_min": 90.0}, ["sigma_min is 90.0", "below sigma_max (80.0)"]),
        ("denoising", {"rho": 0.0}, ["rho is 0.0"]),
        ("consistency", {"guidance_scale": 2.0}, ["guidance_scale is 2.0", "takes no guidance"]),
        ("consistency", {"steps": 9}, ["steps is 9", "1 to 5"]),
        ("consistency", {"steps": 2, "sigma_max": 0.5}, ["intermediate_sigmas has 0.8"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    objective: str, changes: dict, fragments: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        sampling(objective).changed(**changes)
    text = str(caught.value)
    assert "\n" not in text
    for fragment in fragments:
        assert fragment in text

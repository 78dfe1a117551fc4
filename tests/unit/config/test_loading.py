"""Recipes: what is accepted, and how clearly the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from epg.config.comparison import differences
from epg.config.earlier import RENAMED
from epg.config.loading import (
    available_recipes,
    dump_recipe,
    load_recipe,
    parse_overrides,
    passable_recipe,
)
from epg.config.recipe import Recipe
from epg.config.training import ConsistencyConfig, DenoisingConfig, PretrainConfig
from epg.errors import UserError

SMOKE = dump_recipe(load_recipe("smoke"))


def refusal(recipe: str, overrides: dict | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", available_recipes())
def test_packaged_recipes_load_and_survive_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(dump_recipe(recipe)) == recipe


def test_overrides_reach_nested_keys_and_take_whole_floats_for_integers() -> None:
    recipe = load_recipe("smoke", {"pretrain.steps": 7.0, "diffusion.sigma_shift": 2})
    assert recipe.pretrain.steps == 7
    assert recipe.sigma_shift == 2.0


def test_default_shift_is_the_height_over_64() -> None:
    assert load_recipe("smoke", {"diffusion.sigma_shift": None}).sigma_shift == 8 / 64


def test_numbers_written_like_2e_4_are_numbers() -> None:
    assert parse_overrides(["pretrain.learning_rate=2e-4"]) == {"pretrain.learning_rate": 2e-4}
    text = SMOKE.replace("learning_rate:", "learning_rate: 2e-4 #", 1)
    assert load_recipe(text).pretrain.learning_rate == 2e-4


def test_unknown_recipe_names_the_nearest() -> None:
    assert "did you mean 'digits'" in refusal("digit")


def test_misspelt_key_names_file_line_and_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMOKE.replace("warmup_steps", "warmup_step", 1))
    line = 1 + path.read_text().split("warmup_step:")[0].count("\n")
    text = refusal(str(path))
    assert text.startswith(f"{path}:{line}: unknown key 'pretrain.warmup_step'")
    assert "did you mean 'warmup_steps'" in text


def test_misspelt_override_says_so() -> None:
    text = refusal("smoke", {"pretrain.stepz": 5})
    assert text.startswith("--set pretrain.stepz: unknown key")
    assert "'steps'" in text


EARLIER = SMOKE.replace("networks:\n  - classifier\n", "features: classifier\n").replace(
    "steps_per_stage: 4\n", "num_stages: 6\n"
)


@pytest.mark.parametrize(("steps", "stages", "length"), [(24, 6, 4), (23, 6, 4), (4, 6, 1)])
def test_keys_of_version_0_1_are_read(steps: int, stages: int, length: int) -> None:
    text = EARLIER.replace("num_stages: 6", f"num_stages: {stages}")
    recipe = load_recipe(text, {"consistency.steps": steps, "consistency.warmup_steps": 0})
    assert recipe.evaluate.networks == ["classifier"]
    assert recipe.consistency.steps_per_stage == length
    assert "num_stages" not in dump_recipe(recipe)
    assert "features" not in dump_recipe(recipe)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("features: classifier", "features: vgg", "evaluate.networks.0 is 'vgg'"),
        ("features: classifier", "features: 3", "evaluate.features is no more: write evaluate.net"),
        ("num_stages: 6", "num_stages: 0", "consistency.num_stages is no more: write consistency"),
        ("num_stages: 6", "num_stages: few", "consistency.num_stages is no more: write consiste"),
    ],
)
def test_keys_of_version_0_1_with_values_that_are_none(old: str, new: str, says: str) -> None:
    text = EARLIER.replace(old, new)
    line = 1 + text.split(new)[0].count("\n")
    assert refusal(text).startswith(f"recipe:{line}: {says}")


def test_a_key_that_was_renamed_beside_the_new_one_says_what_took_its_place() -> None:
    text = SMOKE.replace("networks:\n", "features: classifier\n  networks:\n")
    line = 1 + text.split("features:")[0].count("\n")
    assert refusal(text).startswith(
        f"recipe:{line}: evaluate.features is no more: write evaluate.networks (a list such as "
        "[classifier] of networks"
    )
    assert refusal("smoke", {"evaluate.features": "inception"}).startswith("--set evaluate.feat")


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        ({"pretrain.learning_rate": "2e-4"}, ["pretrain.learning_rate", "'2e-4'", "quotes"]),
        ({"pretrain.steps": "many"}, ["pretrain.steps", "'many'", "integer"]),
        ({"pretrain.steps": 2.5}, ["pretrain.steps", "2.5"]),
        ({"pretrain.steps": 0}, ["pretrain.steps is 0", "greater than or equal to 1"]),
        ({"pretrain.steps": -3}, ["pretrain.steps is -3"]),
        ({"denoising.class_dropout_prob": 1.5}, ["class_dropout_prob is 1.5"]),
        ({"denoising.learning_rate": float("nan")}, ["learning_rate", "finite"]),
        ({"denoising.learning_rate": True}, ["learning_rate is True"]),
        ({"model.patch_size": 3}, ["model.patch_size is 3", "divide data.image_size (8)"]),
        ({"model.num_heads": 7}, ["model.embed_dim", "multiple of model.num_heads (7)"]),
        ({"data.mean": [0.1, 0.2]}, ["data.mean has 2 values", "data.channels is 1"]),
        ({"data.channels": 2}, ["data.channels is 2"]),
        ({"diffusion.sigma_min": 90.0}, ["sigma_min is 90.0", "below diffusion.sigma_max"]),
        ({"pretrain.warmup_steps": 10**6}, ["pretrain.warmup_steps is 1000000", "steps"]),
        ({"consistency.decay_steps": {"1.5": 0.1}}, ["decay_steps", "'1.5'", "or a step"]),
        ({"consistency.decay_steps": {"0.5": 0.3, "700": 0.1}}, ["decay_steps", "not both"]),
        ({"denoising.ema_decay": [0.999, 0.999]}, ["ema_decay", "different ones"]),
        ({"denoising.ema_decay": []}, ["ema_decay", "one rate, or a list"]),
        ({"denoising.sampling_ema": 0.5}, ["sampling_ema is 0.5", "keeps averages at 0.99"]),
        ({"consistency.sampling_steps": 9}, ["consistency.sampling_steps is 9", "1 to 5"]),
        ({"denoising.solver": "rk4"}, ["denoising.solver is 'rk4'", "'heun' or 'euler'"]),
        ({"denoising.layer_decay": 0.0}, ["denoising.layer_decay is 0.0", "greater than 0"]),
        ({"pretrain.contrastive_target": "momentum"}, ["contrastive_target", "'stop-gradient'"]),
        ({"consistency.decay_steps": {0.5: -1.0}}, ["decay_steps", "-1.0"]),
        ({"denoising.guidance_interval": [2, 0.1]}, ["guidance_interval is [2, 0.1]", "low < hi"]),
        ({"denoising.guidance_interval": [-1, 2]}, ["guidance_interval is [-1, 2]", "0 <= low"]),
        ({"denoising.guidance_interval": [1, 1]}, ["guidance_interval is [1, 1]"]),
        ({"denoising.guidance_interval": [1]}, ["guidance_interval", "at least 2 items"]),
        ({"denoising.betas": [0.9, 1.5]}, ["denoising.betas.1 is 1.5", "less than 1"]),
        ({"denoising.betas": [0.9, 1.0]}, ["denoising.betas.1 is 1.0"]),
        ({"denoising.betas": [-0.1, 0.9]}, ["denoising.betas.0 is -0.1"]),
        ({"denoising.betas": [0.9, 0.99, 0.9]}, ["denoising.betas", "at most 2 items"]),
        ({"pretrain.augmentation.blur_sigma": [2, 0.1]}, ["blur_sigma is [2, 0.1]", "low <= hi"]),
        ({"pretrain.augmentation.color_jitter": [0.4, -0.1, 0, 0]}, ["color_jitter.1 is -0.1"]),
        ({"pretrain.augmentation.color_jitter": [0, 0, 0, 0.6]}, ["color_jitter is", "hue"]),
        ({"pretrain.num_scales_start": 2000}, ["pretrain.num_scales_start is 2000", "1280"]),
        ({"data.mean": [1.2]}, ["data.mean.0 is 1.2"]),
        ({"data.std": [float("inf")]}, ["data.std.0 is inf", "finite"]),
        ({"denoising.sigma_log_mean": float("-inf")}, ["sigma_log_mean is -inf", "finite"]),
        ({"consistency.decay_steps": {0.5: float("nan")}}, ["decay_steps.0.5 is nan", "finite"]),
        ({"gate.denoising": {"fid": {"max": float("nan")}}}, ["fid.max is nan", "finite"]),
        ({"gate.denoising": {"fid": {"min": 2, "max": 1}}}, ["fid", "min must not exceed max"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"evaluate.networks": []}, ["evaluate.networks is []", "at least 1"]),
        ({"evaluate.networks": "classifier"}, ["evaluate.networks is 'classifier'", "list"]),
        ({"evaluate.networks": ["clip"]}, ["evaluate.networks.0 is 'clip'", "'inception'"]),
        ({"evaluate.networks": ["inception"] * 2}, ["[inception, inception]", "once"]),
        ({"pretrain": 3}, ["pretrain is 3"]),
        ({"seed.x": 3}, ["seed is not a section"]),
        ({"seed": "1:30"}, ["seed is '1:30'", "a plain decimal number, without quotes"]),
        ({"data.horizontal_flip": "yes"}, ["horizontal_flip is 'yes'", "true or false"]),
        ({"model.depth": 10**6}, ["model.depth is 1000000", "less than or equal to 1000"]),
        ({"model.embed_dim": 2**31}, ["model.embed_dim is 2147483648", "65536"]),
        ({"pretrain.steps": 10**12}, ["pretrain.steps is 1000000000000"]),
        ({"data.image_size": 4096}, ["model.patch_size is 2", "tokens, at most 65,536"]),
        ({"description": ["x" * 10_000]}, ["description is ['xxx", "...: input should be"]),
    ],
)
def test_wrong_values_are_refused_with_key_value_and_rule(
    overrides: dict, fragments: list[str]
) -> None:
    text = refusal("smoke", overrides)
    for fragment in fragments:
        assert fragment in text


def test_text_for_template_engines_has_no_mark_of_theirs() -> None:
    said = (
        "it's {{$.inputs.parameters['store']}} {{{x}}} \U0001f600 \\ud83d \x9f\x07\u2028\ufeff\xe9"
    )
    marked = load_recipe("smoke", {"description": said})
    text = passable_recipe(marked)
    assert "{{" not in text
    assert load_recipe(text) == marked
    plain = load_recipe("smoke")
    assert passable_recipe(plain) == dump_recipe(plain)


def test_a_key_of_an_earlier_version_names_the_new_one(tmp_path: Path) -> None:
    text = refusal("smoke", {"consistency.num_stages": 6})
    assert text.startswith("--set consistency.num_stages: consistency.num_stages is no more")
    assert "write consistency.steps_per_stage (" in text
    path = tmp_path / "old.yaml"
    both = SMOKE.replace("steps_per_stage: 4", "num_stages: 6\n  steps_per_stage: 4")
    path.write_text(both.replace("seed: 0", ""))
    assert "write consistency.steps_per_stage" in refusal(str(path))  # before the missing seed


def test_new_names_exist_and_old_ones_do_not() -> None:
    for old, new in RENAMED.items():
        for key, exists in ((old, False), (new, True)):
            *sections, last = key.split(".")
            section: Any = Recipe
            for name in sections:
                section = section.model_fields[name].annotation
            assert (last in section.model_fields) is exists


STAGE_2 = {"steps": 100, "batch_size": 8, "learning_rate": 1e-4}


def test_defaults_of_each_stage_are_its_own() -> None:
    pretrain, denoising, consistency = (
        section.model_validate(STAGE_2)
        for section in (PretrainConfig, DenoisingConfig, ConsistencyConfig)
    )
    assert (pretrain.betas, pretrain.weight_decay) == ((0.9, 0.95), 0.03)
    assert (denoising.betas, denoising.weight_decay) == ((0.9, 0.999), 0.01)
    assert (consistency.betas, consistency.weight_decay) == ((0.9, 0.99), 0.03)
    clips = [section.grad_clip for section in (pretrain, denoising, consistency)]
    assert clips == [None, 0.5, None]
    decays = [section.decay for section in (pretrain, denoising, consistency)]
    assert decays == ["cosine", "cosine", "steps"]


def test_one_rate_of_the_moving_average_or_several() -> None:
    one = load_recipe("smoke", {"denoising.ema_decay": [0.99]}).denoising
    assert (one.ema_decay, one.ema_decays) == (0.99, (0.99,))
    several = load_recipe("smoke", {"denoising.ema_decay": [0.99, 0.999]})
    assert several.denoising.ema_decays == (0.99, 0.999)
    assert several.denoising.judged == "generator"
    rates: dict[str, object] = {"denoising.ema_decay": [0.99, 0.999]}
    other = load_recipe("smoke", {**rates, "denoising.sampling_ema": 0.999})
    assert other.denoising.judged == "generator-ema-0.999"
    assert load_recipe(dump_recipe(several)) == several


def test_drops_of_the_learning_rate_have_numbers_or_text_as_keys() -> None:
    text = SMOKE.replace("decay_steps: {}", "decay_steps: {0.75: 0.01, '0.5': 0.1}", 1)
    assert text != SMOKE
    recipe = load_recipe(text)
    assert list(recipe.pretrain.decay_steps.items()) == [(0.5, 0.1), (0.75, 0.01)]
    assert load_recipe(dump_recipe(recipe)) == recipe
    again = Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json"))))
    assert again == recipe


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("", "a recipe is a mapping"),
        ("- 1\n- 2\n", "a recipe is a mapping"),
        ("a: [1\n", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "2: seed appears twice"),
        ("name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("name: x\n", "is missing"),
        ("a: &a [1]\nb: [" + "*a, " * 200 + "*a]\n", "aliases"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: str, fragment: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    text = refusal(str(path))
    assert str(path) in text
    assert fragment in text


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    assert "cannot read it" in refusal(str(tmp_path / "absent.yaml"))
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert "not UTF-8" in refusal(str(path))
    path.write_bytes(b"#" * 1_000_001)
    assert "at most" in refusal(str(path))


def test_settings_without_a_value_are_refused() -> None:
    with pytest.raises(UserError, match="key=value"):
        parse_overrides(["pretrain.steps"])
    with pytest.raises(UserError, match="not valid YAML"):
        parse_overrides(["pretrain.steps=[1"])


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Recipe.model_fields, "steps", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_gives_a_recipe_or_one_line(document: object) -> None:
    text = yaml.safe_dump(document, allow_unicode=True) + "\n"
    refused = None
    try:
        load_recipe("\n" + text)
    except UserError as error:
        refused = str(error)
    assert refused is None or "\n" not in refused


def test_differences_are_listed_by_dotted_key() -> None:
    old = {"a": {"b": 1, "c": 2}, "d": 3, "f": None}
    new = {"a": {"b": 1, "c": 5}, "e": None, "f": None}
    assert differences(old, new) == ["a.c: 2 -> 5", "d: 3 -> absent", "e: absent -> None"]

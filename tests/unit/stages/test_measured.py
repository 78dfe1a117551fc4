"""What a recipe leaves to the data, before and after they are sharded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from epg.config.loading import load_recipe
from epg.errors import UserError
from epg.evaluation.costs import costs
from epg.runs.run import Run
from epg.stages.count_gflops import count_gflops
from epg.stages.inputs import stored_manifest
from epg.stages.measured import settled, with_measured
from epg.stages.shard import shard

OPEN = {"data.num_classes": None, "data.mean": None, "data.std": None}


def test_what_is_open_is_told_once_there_are_shards(tmp_path):
    data = load_recipe("smoke", OPEN).data
    with pytest.raises(UserError, match=r"num_classes is left to the data, .*: `epg shard` first"):
        _ = data.class_count
    with pytest.raises(UserError, match=r"mean is left to the data, .* --set data.mean=\[...\]"):
        _ = data.normalisation
    run = Run.open("smoke", OPEN, str(tmp_path), "one")
    one_class = count_gflops(run).metrics
    shard(run)
    found = with_measured(run).recipe.data
    assert found.is_settled
    assert found.num_classes == 10
    assert found.mean == pytest.approx([0.305], abs=0.01)
    assert found.std == pytest.approx([0.376], abs=0.01)
    known = load_recipe("smoke")
    assert count_gflops(run).metrics == costs(known)
    rows = 9 * (known.model.decoder_embed_dim or known.model.embed_dim)
    assert costs(known)["parameters_generator"] == one_class["parameters_generator"] + rows
    assert one_class["gmacs"] == costs(known)["gmacs"]


def test_what_the_recipe_says_stays(tmp_path):
    run = Run.open("smoke", {"data.num_classes": None, "data.mean": [0.25]}, str(tmp_path), "one")
    shard(run)
    data = with_measured(run).recipe.data
    assert (data.num_classes, data.mean, data.std) == (10, (0.25,), (0.3761,))
    told = Run.open("smoke", {}, str(tmp_path), "two")
    assert with_measured(told) is told  # nothing is read


def test_shards_that_were_not_measured_are_named(tmp_path):
    recipe = load_recipe("smoke", OPEN)
    run = Run.open("smoke", {}, str(tmp_path), "one")
    shard(run)
    manifest = stored_manifest(run)
    for report in ({}, {"pixels": {"mean": [0.5, 0.5], "std": [0.1]}}):
        with pytest.raises(UserError, match=r"data.mean is left to the data, but these shards"):
            settled(recipe, replace(manifest, report=report))
    flat = replace(manifest, report={"pixels": {"mean": [0.5], "std": [0.0]}})
    assert settled(recipe, flat).data.std == (0.001,)

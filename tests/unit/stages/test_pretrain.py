"""What stage 1 hands on: the online encoder alone, and the projector beside it."""

from __future__ import annotations

import pytest
import torch

from epg.model.encoder import Encoder
from epg.model.files import load_weights
from epg.model.projector import Projector
from epg.runs.handover import fetch_output
from epg.runs.run import Run
from epg.stages.pretrain import pretrain
from epg.stages.shard import shard
from epg.training.pretraining import Pretraining

FEW = {
    "pretrain.steps": 2,
    "pretrain.batch_size": 8,
    "pretrain.warmup_steps": 0,
    "pretrain.target_ema_decay": 1.0,  # the target stays what it was at the start
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run.open("smoke", FEW, str(tmp_path_factory.mktemp("store")), "a")
    shard(run)
    pretrain(run)
    return run


@pytest.mark.parametrize("kind", ["encoder", "projector"])
def test_export_is_the_trained_network_without_the_target(run: Run, kind: str, tmp_path) -> None:
    record = pretrain(run)
    assert set(record.outputs) == {"encoder", "projector", "series", "curves"}
    path = fetch_output(run, record, kind, tmp_path / f"{kind}.safetensors")
    weights, header = load_weights(path, kind)
    module = Encoder if kind == "encoder" else Projector
    arguments = getattr(run.recipe, f"{kind}_arguments")()
    assert header["arguments"] == arguments
    assert set(weights) == set(module(**arguments).state_dict())  # its own names and no others
    assert not any("projector" in name or "target" in name for name in weights)
    begun = Pretraining(run.recipe, torch.device("cpu"))
    target = getattr(begun, f"_target_{kind}").state_dict()
    moved = [name for name, tensor in weights.items() if not torch.equal(tensor, target[name])]
    parameters = dict(getattr(begun, kind).named_parameters())
    assert set(moved) >= set(parameters)  # online weights: training has moved every one

"""What stage 1 hands on: the online encoder alone, and the projector beside it."""

from __future__ import annotations

import pytest
import torch

from epg.model.encoder import Encoder
from epg.model.files import load_generator, load_weights
from epg.model.projector import Projector
from epg.runs.handover import fetch_output
from epg.runs.run import Run
from epg.stages.export import export_encoder
from epg.stages.findings import _paces
from epg.stages.finetune import finetune
from epg.stages.pretrain import pretrain
from epg.stages.report import report
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


def test_from_scratch_by_one_key(run: Run, tmp_path) -> None:
    scratch = Run.open("smoke", {"pretrain.enabled": False}, str(tmp_path), "b")
    shard(scratch)
    record = pretrain(scratch)
    assert set(record.outputs) == {"encoder", "projector", "series", "curves"}
    begun = Pretraining(scratch.recipe, torch.device("cpu"))
    for kind in ("encoder", "projector"):
        path = fetch_output(scratch, record, kind, tmp_path / f"{kind}.safetensors")
        weights, _ = load_weights(path, kind)
        for name, tensor in getattr(begun, kind).state_dict().items():
            assert torch.equal(weights[name], tensor), name
    trained = finetune(scratch, "denoising")
    assert trained.metrics["parameters"] > 0
    report(scratch)  # draws what there is: no curve of pre-training


def test_every_rate_has_a_file_that_names_it(run: Run, tmp_path) -> None:
    rates = {"denoising.ema_decay": [0.99, 0.5], "denoising.ema_warmup": False}
    rates |= {"denoising.steps": 3, "denoising.warmup_steps": 0}
    run = Run.open("smoke", FEW | rates, run.store_uri, "a")
    record = finetune(run, "denoising")
    files = {
        name: fetch_output(run, record, name, tmp_path / f"{name}.safetensors")
        for name in ("generator", "generator-ema-0.5")
    }
    loaded = {name: load_generator(path) for name, path in files.items()}
    assert [each.metadata["ema_decay"] for each in loaded.values()] == [0.99, 0.5]
    a, b = (each.generator.decoder.head.weight for each in loaded.values())
    assert not torch.equal(a, b)


def test_a_runs_encoder_leaves_by_the_runs_name(run: Run, tmp_path) -> None:
    written = export_encoder("a", out=tmp_path / "timm", store=run.store_uri)
    assert all(path.stat().st_size > 0 for path in written)


def test_a_training_tells_its_pace_and_the_report_shows_it(run: Run) -> None:
    record = pretrain(run)
    found = record.details["pace"]
    assert (found["device"], found["processes"]) == ("cpu", 1)
    assert found["images_per_second"] > 0
    (line,) = _paces(run, {"pretrain": record})
    assert line[0] == "pretrain, measured"
    assert "images/s" in line[1]
    assert line[1].endswith("TFLOP/s on cpu")

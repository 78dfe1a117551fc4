"""The stage `register` on made-up records; nothing is trained here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from epg.data.manifest import Manifest, ShardInfo
from epg.errors import UserError
from epg.registry import open_registry
from epg.runs.record import StageRecord, load_record, record_key
from epg.runs.run import Run
from epg.stages.register import register, register_component
from tests.toys.handed import artifact, hand_over

WEIGHTS = b"weights of a generator"


def put_record(run: Run, stage: str, outputs: dict[str, bytes], **metrics: Any) -> None:
    stored = {}
    for filename, data in outputs.items():
        key = f"{stage}/{filename}"
        run.store.put_bytes(key, data)
        name = Path(filename).stem
        digest = hashlib.sha256(data).hexdigest()
        stored[name] = {"key": key, "sha256": digest, "size": len(data)}
    record = StageRecord(
        stage=stage,
        fingerprint=f"{stage} {sorted(metrics.items())}",
        config={},
        inputs={},
        outputs=stored,
        metrics=metrics,
        details={"feature_networks": {"classifier": "digits-cnn"}}
        if stage.startswith("evaluate")
        else {},
        started="2026-11-23T00:00:00+00:00",
        finished="2026-11-23T00:00:01+00:00",
        duration_seconds=1.0,
        versions={},
    )
    run.store.put_bytes(record_key(stage), record.to_json())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.open("digits", None, str(tmp_path / "runs"), "try")
    shard = ShardInfo("shards/x.tar", 10, "0" * 64, 20)
    manifest = Manifest(
        source="digits",
        image_size=8,
        channels=1,
        classes=[str(n) for n in range(10)],
        splits={"train": [shard], "held-out": [shard]},
        class_counts={"train": [2] * 10, "held-out": [2] * 10},
    )
    put_record(run, "shard", {"manifest.json": manifest.to_json()})
    put_record(run, "finetune-denoising", {"generator.safetensors": WEIGHTS})
    put_record(run, "evaluate-denoising", {"grid.png": b"png"}, svc_agreement=0.96, nfe=63)
    put_record(run, "gate-denoising", {}, verdict="pass", reason="all met")
    return run


def test_a_model_that_passed_is_registered_with_its_card(run: Run) -> None:
    record = register(run, "denoising")
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert record.metrics == {
        "model": "digits-denoising",
        "version": "v1",
        "digest": digest,
        "uri": f"{run.registry.uri}/digits-denoising/v1",
    }
    assert record.details["created"] is True
    below = run.registry.sub("digits-denoising/v1")
    assert below.get_bytes("model.safetensors") == WEIGHTS
    assert below.get_bytes("grid.png") == b"png"
    assert json.loads(below.get_bytes("metrics.json")) == {"svc_agreement": 0.96, "nfe": 63}
    assert b"name: digits" in below.get_bytes("recipe.yaml")
    card = below.get_bytes("README.md").decode()
    assert "digits-cnn" in card
    assert f"Heun, {run.recipe.denoising.sampling_steps} noise levels" in card


def test_the_average_that_was_judged_is_the_model_and_others_lie_beside_it(run: Run) -> None:
    rates = {"denoising.ema_decay": [0.99, 0.999, 0.9], "denoising.sampling_ema": 0.999}
    run = Run.open("digits", rates, run.store_uri, "try")
    files = {f"generator{end}.safetensors": end.encode() for end in ("", "-ema-0.999", "-ema-0.9")}
    put_record(run, "finetune-denoising", files)
    register(run, "denoising")
    below = run.registry.sub("digits-denoising/v1")
    assert below.get_bytes("model.safetensors") == b"-ema-0.999"
    assert below.get_bytes("model-ema-0.99.safetensors") == b""
    assert below.get_bytes("model-ema-0.9.safetensors") == b"-ema-0.9"
    assert b"0.99, 0.999, 0.9; 0.999 was judged" in below.get_bytes("README.md")


def test_a_second_time_is_reused_until_the_registry_is_gone(run: Run) -> None:
    first = register(run, "denoising")
    assert register(run, "denoising").finished == first.finished
    run.registry.delete("digits-denoising/v1/model.json")
    again = register(run, "denoising")
    assert again.details["created"] is True
    assert len(open_registry(run.registry).list()) == 1


def test_new_evaluation_of_the_same_weights_registers_nothing_new(run: Run) -> None:
    register(run, "denoising")
    put_record(run, "evaluate-denoising", {}, svc_agreement=0.97)
    record = register(run, "denoising")
    assert (record.metrics["version"], record.details["created"]) == ("v1", False)


def test_a_model_that_failed_is_refused_with_the_reason(run: Run) -> None:
    reason = "svc_agreement is 0.90, at least 0.93 is wanted"
    put_record(run, "gate-denoising", {}, verdict="fail", reason=reason)
    with pytest.raises(UserError) as caught:
        register(run, "denoising")
    assert reason in str(caught.value)
    assert "is not registered: its gate says 'fail'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert open_registry(run.registry).list() == []
    assert load_record(run, "register-denoising") is None


def test_without_a_gate_nothing_is_registered(run: Run) -> None:
    run.store.delete(record_key("gate-denoising"))
    with pytest.raises(UserError, match="stage 'gate-denoising' of run 'try' is not done"):
        register(run, "denoising")


def test_other_weights_under_a_version_are_refused(run: Run, tmp_path: Path) -> None:
    register(run, "denoising", version="v7")
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"other")
    other = hand_over(run, "finetune-denoising", generator=path)
    with pytest.raises(UserError, match="a version never changes"):
        register(run, "denoising", generator=other, version="v7")
    assert register(run, "denoising", generator=other).metrics["version"] == "v1"


def test_component_returns_the_uri(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(WEIGHTS)
    handed = hand_over(run, "finetune-denoising", generator=weights).to_json()
    uri = register_component(
        generator=artifact(tmp_path / "artifact", handed),
        metrics=None,
        objective="denoising",
        recipe="digits",
        overrides={},
        store=run.store_uri,
        run_name="try",
    )
    assert uri == f"{run.registry.uri}/digits-denoising/v1"


def test_nothing_heavy_is_loaded_when_it_is_done_already(run: Run) -> None:
    register(run, "denoising")
    script = (
        "import sys\n"
        "from epg.stages.register import register\n"
        "from epg.runs.run import Run\n"
        f"register(Run.open('digits', None, {run.store_uri!r}, 'try'), 'denoising')\n"
        "heavy = {'torch', 'jinja2', 'minio', 'scipy', 'sklearn', 'PIL'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

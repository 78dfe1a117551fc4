"""The ablations run from a folder of IDX files to a table, and do not measure a row twice."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
TINY = {
    "model.embed_dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.projector_hidden_dim": 16,
    "model.patch_size": 7,
    "pretrain.batch_size": 32,
    "denoising.batch_size": 32,
    "consistency.batch_size": 32,
    "denoising.sampling_steps": 3,
    "evaluate.num_samples": 40,
    "evaluate.few": True,
    "evaluate.classifier_epochs": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty pictures of each of ten classes, a few held out, as Fashion-MNIST is distributed."""
    place = tmp_path / "idx"
    place.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 400), ("t10k", 100)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = random.integers(0, 50, (count, 28, 28), dtype=np.uint8)
        for row, label in zip(images, labels, strict=True):
            row[2 * label : 2 * label + 8] += 200  # a bar, lower for each class
        head = np.array([0x803, count, 28, 28], ">u4").tobytes()
        with gzip.open(place / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(head + images.tobytes())
        with gzip.open(place / f"{name}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(np.array([0x801, count], ">u4").tobytes() + labels.tobytes())
    return place


def ablation(*words: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "benchmarks" / "fashion_ablation.py"
    settings = [f"--set={key}={value}" for key, value in TINY.items()]
    return subprocess.run(
        [sys.executable, str(script), *words, *settings],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_fashion_ablation_from_a_folder_to_a_table(folder: Path, tmp_path: Path) -> None:
    output, pictures = tmp_path / "found.json", tmp_path / "pictures"
    words = ["--data", str(folder), "--device", "cpu", "--pretrain-steps", "3", "--steps", "4"]
    words += ["--output", str(output), "--pictures", str(pictures)]
    words += ["--variants", "both", "--workers", "2"]
    found = ablation(*words)
    assert found.returncode == 0, found.stderr
    result = json.loads(output.read_text())
    places = [(row["variant"], row["objective"], row["steps"]) for row in result["rows"]]
    assert places == [("both", objective, 4) for objective in ("denoising", "consistency")]
    for row in result["rows"]:
        for name in ("svc_agreement", "class_agreement", "linear_probe"):
            assert 0.0 <= row[name] <= 1.0
        assert row["frechet_distance"] >= 0.0
    assert result["device"] == "cpu"
    assert str(tmp_path) not in output.read_text()  # figures of a data set, not of a folder
    assert len(list(pictures.glob("*.png"))) == 2
    assert "SVC agreement" in found.stdout
    again = ablation(*words)  # measured already
    assert again.returncode == 0, again.stderr
    assert json.loads(output.read_text()) == result
    assert "finetune" not in again.stderr


def test_without_the_data_nothing_is_measured(tmp_path: Path) -> None:
    found = ablation("--data", str(tmp_path))
    assert found.returncode == 0
    assert "give their folder with --data" in found.stdout

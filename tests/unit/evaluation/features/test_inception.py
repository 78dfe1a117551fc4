from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from epg.evaluation.features.converting import convert
from epg.evaluation.features.inception import (
    FidInception,
    load_inception,
    resize_like_tensorflow,
)
from epg.evaluation.features.weights import WEIGHTS
from tests.toys.described import describe


def shapes() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return FidInception().state_dict()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A file like the published one, which cannot travel with the tests.

    Random weights that keep the activations' size; no `num_batches_tracked`, as in old files.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in shapes().items():
        if value.ndim > 1:
            drawn = torch.randn(value.shape, generator=generator)
            state[name] = drawn * (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        elif name.endswith("bn.weight"):
            state[name] = torch.ones(value.shape)
        elif "num_batches_tracked" not in name:
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def weights(file, tmp_path_factory) -> Path:
    """The same converted, as `epg weights` does it."""
    published = replace(WEIGHTS["inception"], sha256="")
    path = tmp_path_factory.mktemp("converted") / published.file
    convert(published, file, path)
    return path


@pytest.fixture(autouse=True)
def _unpinned(monkeypatch) -> None:
    """No file made here has the digest of the published one."""
    monkeypatch.setitem(WEIGHTS, "inception", replace(WEIGHTS["inception"], sha256=""))


def test_names_and_shapes_are_those_of_the_published_file():
    state = shapes()
    found = {name: tuple(value.shape) for name, value in state.items()}
    assert found["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert found["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert found["Mixed_6d.branch7x7dbl_5.bn.running_var"] == (192,)
    assert found["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert found["fc.weight"] == (1008, 2048)
    assert not [name for name in found if "AuxLogits" in name]
    floats = sum(v.numel() for k, v in state.items() if "num_batches_tracked" not in k)
    # The published file is 95.6 MB: these numbers as float32, and a little for the names.
    assert floats * 4 < 95_628_359 < floats * 4 + 500_000


def test_features_have_the_published_widths(weights):
    model = load_inception(weights)
    images = torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8)
    found = model.describe(images)
    assert found.pool.shape == (1, 2048)
    assert found.spatial is not None
    assert found.spatial.shape == (1, 2023)
    assert found.logits is not None
    assert found.logits.shape == (1, 1008)
    torch.testing.assert_close(found.logits, found.pool @ model.fc.weight.T)  # without bias
    grey = images[:, :, :, :1]
    torch.testing.assert_close(
        model.describe(grey).pool, model.describe(grey.expand(-1, -1, -1, 3)).pool
    )


def test_figures_are_fid_sfid_and_the_inception_score(weights):
    model = load_inception(weights)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    (found,) = describe([model], images, np.zeros(2, np.int64))
    metrics, details = model.compare(found, found, np.zeros(2, np.int64))
    assert set(metrics) == set(model.figures)
    assert metrics["fid"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["sfid"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["kid"] < 0  # unbiased: below 0 for a set and itself
    assert len(model.weights_digest) == 64
    assert metrics["inception_score"] >= 1.0
    assert details == {}
    assert model.quality(found, np.zeros(2, np.int64)) == {}


def test_folding_changes_speed_and_no_feature(file, weights):
    plain = FidInception().eval()
    plain.load_state_dict(torch.load(file, weights_only=True), strict=False)
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    folded = load_inception(weights)
    for one, other in zip(plain.describe(images), folded.describe(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_only_uint8_images_with_channels_last():
    with torch.device("meta"):
        model = FidInception()
    with pytest.raises(ValueError, match="not uint8 NHWC"):
        model.describe(torch.zeros(1, 8, 8, 3))
    with pytest.raises(ValueError, match="not uint8 NHWC"):
        model.describe(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_resize_puts_pixels_where_tensorflow_1_did():
    x = torch.tensor([[[[0.0, 10.0, 20.0]]]])
    # Output pixel i lies at i·3/6: no half-pixel centres; beyond the last pixel it is repeated.
    wanted = torch.tensor([0.0, 5.0, 10.0, 15.0, 20.0, 20.0])
    found = resize_like_tensorflow(x, 6)
    assert torch.allclose(found, wanted.expand(1, 1, 6, 6))
    same = torch.rand(1, 3, 7, 7)
    assert torch.equal(resize_like_tensorflow(same, 7), same)
    assert torch.equal(resize_like_tensorflow(same, 1), same[:, :, :1, :1])

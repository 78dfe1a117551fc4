"""DINOv2's features against timm's own forward, on the same random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from epg.evaluation.features import converting, dinov2
from epg.evaluation.features.converting import convert
from epg.evaluation.features.dinov2 import load_dinov2
from epg.evaluation.features.weights import WEIGHTS


def body_of_two_blocks(size: int) -> nn.Module:
    return timm.create_model(dinov2.MODEL, num_classes=0, img_size=size, depth=2)


def test_features_equal_timms_forward(tmp_path, monkeypatch):
    """Two of twelve blocks: the others are alike, and take long."""
    monkeypatch.setattr(dinov2, "published_body", body_of_two_blocks)
    monkeypatch.setattr(converting, "_network", lambda kind: body_of_two_blocks(518))
    torch.manual_seed(0)
    body = body_of_two_blocks(518)
    with torch.no_grad():  # its own start leaves every branch at a hundred thousandth
        for name, parameter in body.named_parameters():
            if name.endswith("gamma"):
                parameter.copy_(torch.rand_like(parameter))
    published = tmp_path / "model.safetensors"
    save_file(body.state_dict(), published)
    weights = replace(WEIGHTS["dinov2"], sha256="")
    converted = tmp_path / weights.file
    convert(weights, published, converted)
    ours = load_dinov2(converted)

    # timm resamples positions by itself when it is told that images may have any size.
    theirs = timm.create_model(
        dinov2.MODEL, num_classes=0, img_size=518, depth=2, dynamic_img_size=True
    ).eval()
    theirs.load_state_dict(load_file(published))
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    settings: Any = theirs.pretrained_cfg
    mean, std = (torch.tensor(settings[key]) for key in ("mean", "std"))
    x = images.permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    x = (x - mean.reshape(1, 3, 1, 1)) / std.reshape(1, 3, 1, 1)
    with torch.inference_mode():
        wanted = theirs(x)
    found = ours.describe(images)
    assert found.logits is None
    assert found.pool.shape == (2, 768)
    torch.testing.assert_close(found.pool, wanted, rtol=1e-4, atol=1e-5)
    grey = images[:, :, :, :1]
    torch.testing.assert_close(
        ours.describe(grey).pool, ours.describe(grey.expand(-1, -1, -1, 3)).pool
    )
    assert len(ours.weights_digest) == 64

"""Compiled networks compute what plain ones do; on a GPU tests/gpu asks for more."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import Tensor

from epg.model.encoder import Encoder
from epg.model.precision import COMPILE_VARIABLE, Precision

COMPILERS = ("g++", "clang++", "c++")


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_features_and_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMPILE_VARIABLE, "1")
    torch.manual_seed(0)
    encoder = Encoder(8, 4, 1, 16, 2, 2, 2.0)
    plain = copy.deepcopy(encoder)
    Precision.full().compiled(encoder)
    x, level = torch.randn(3, 1, 8, 8), torch.randn(3)

    def gradient(network: Encoder) -> Tensor:
        loss = network.features(x, level).square().sum()
        found = torch.autograd.grad(loss, list(network.parameters()))
        return torch.cat([part.flatten() for part in found])

    torch.testing.assert_close(encoder.features(x, level), plain.features(x, level))
    wanted = gradient(plain)
    assert (gradient(encoder) - wanted).norm() < 1e-5 * wanted.norm()

    other = copy.deepcopy(encoder)  # computes by its own weights, and by no others
    with torch.no_grad():
        other.pos_embed.add_(1.0)
        plain.pos_embed.add_(1.0)
        torch.testing.assert_close(other.features(x, level), plain.features(x, level))
